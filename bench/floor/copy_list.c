/* The floor of provisioning: makes a list of directories, files and links, and nothing else. One thread, one pass,
 * no decision, no checking, no durability (but for `durable`).
 *
 *   copy_list copy|durable|link|read LIST DEST
 *
 * LIST holds records of two NUL-terminated strings: a kind (d, f, l) followed by the path below DEST, then the source
 * of a file or the target of a link. `durable` copies and then has the file system write it to disk, as jail-init does:
 * the floor of what a power cut must not take back. `read` only reads DEST's files: the floor of an audit that reads whole contents. */
#define _GNU_SOURCE
#include <err.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static char buffer[128 * 1024];

static void copy(int dest, const char *path, const char *source)
{
	struct stat st;
	int in = open(source, O_RDONLY | O_NOFOLLOW | O_CLOEXEC);

	if (in < 0 || fstat(in, &st))
		err(1, "%s", source);
	int out = openat(dest, path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, st.st_mode & 0777);
	if (out < 0)
		err(1, "%s", path);
	for (off_t left = st.st_size; left > 0;) {
		ssize_t n = copy_file_range(in, NULL, out, NULL, left, 0);
		if (n < 0 && errno == EXDEV)	/* the few files of another file system */
			n = write(out, buffer, read(in, buffer, sizeof buffer));
		if (n <= 0)
			err(1, "%s", path);
		left -= n;
	}
	close(in);
	close(out);
}

static void read_all(int dest, const char *path)
{
	int in = openat(dest, path, O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
	ssize_t n;

	if (in < 0)
		err(1, "%s", path);
	while ((n = read(in, buffer, sizeof buffer)) > 0)
		;
	if (n < 0)
		err(1, "%s", path);
	close(in);
}

int main(int argc, char **argv)
{
	struct stat st;

	if (argc != 4)
		errx(2, "usage: copy_list copy|durable|link|read LIST DEST");
	int list = open(argv[2], O_RDONLY | O_CLOEXEC);
	if (list < 0 || fstat(list, &st))
		err(1, "%s", argv[2]);
	char *at = malloc(st.st_size + 1), *end = at + st.st_size;
	if (!at || read(list, at, st.st_size) != st.st_size)
		err(1, "%s", argv[2]);
	*end = 0;
	int dest = open(argv[3], O_PATH | O_DIRECTORY | O_CLOEXEC);
	if (dest < 0)
		err(1, "%s", argv[3]);
	umask(0);

	while (at < end) {
		char kind = *at, *path = at + 1;
		char *other = path + strlen(path) + 1;
		at = other + strlen(other) + 1;
		if (*argv[1] == 'r') {
			if (kind == 'f')
				read_all(dest, path);
		} else if (kind == 'd') {
			if (mkdirat(dest, path, 0755))
				err(1, "%s", path);
		} else if (kind == 'l') {
			if (symlinkat(other, dest, path))
				err(1, "%s", path);
		} else if (*argv[1] != 'l' || linkat(AT_FDCWD, other, dest, path, 0)) {
			copy(dest, path, other);
		}
	}
	if (*argv[1] == 'd') {
		int whole = openat(dest, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
		if (whole < 0 || syncfs(whole))
			err(1, "%s", argv[3]);
	}
	return 0;
}
