/* The floor of library resolution: the closure of DT_NEEDED for a list of programs, through RUNPATH or RPATH with
 * $ORIGIN and /etc/ld.so.cache. None of ld.so's finer rules; what it prints is only good for counting.
 *
 *   elf_closure LIST      one path a line; prints the number of libraries, and with -v their paths */
#define _GNU_SOURCE
#include <elf.h>
#include <err.h>
#include <fcntl.h>
#include <link.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

enum { SLOTS = 1 << 15, QUEUE = 1 << 14 };

/* An open-addressed table from a string to a string. */
struct table { const char *key[SLOTS], *value[SLOTS]; };
static struct table cache, seen;
static char *queue[QUEUE];
static int queued, libraries;

static const char **slot(struct table *t, const char *key)
{
	uint32_t h = 2166136261u;
	for (const char *c = key; *c; c++)
		h = (h ^ (unsigned char)*c) * 16777619u;
	for (h %= SLOTS; t->key[h] && strcmp(t->key[h], key); h = (h + 1) % SLOTS)
		;
	t->key[h] = key;
	return &t->value[h];
}

static const char *map(const char *path, size_t *size)
{
	struct stat st;
	int fd = open(path, O_RDONLY | O_CLOEXEC);

	if (fd < 0)
		return NULL;
	void *at = MAP_FAILED;
	if (!fstat(fd, &st) && S_ISREG(st.st_mode) && st.st_size > 64)
		at = mmap(NULL, st.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
	close(fd);
	*size = st.st_size;
	return at == MAP_FAILED ? NULL : at;
}

/* The cache's own layout: glibc's sysdeps/generic/dl-cache.h describes it; entries of this machine carry this flag. */
static void read_cache(void)
{
	struct entry { int32_t flags; uint32_t key, value, os; uint64_t hwcap; };
	size_t size;
	const char *at = map("/etc/ld.so.cache", &size);
	uint32_t count;
#if defined(__aarch64__)
	const int32_t ours = 0x0a03;
#else
	const int32_t ours = 0x0303;
#endif

	if (!at || memcmp(at, "glibc-ld.so.cache1.1", 20))
		errx(1, "/etc/ld.so.cache: unknown format");
	memcpy(&count, at + 20, 4);
	const struct entry *e = (const void *)(at + 48);
	for (uint32_t i = 0; i < count; i++) {
		if (e[i].flags != ours || e[i].hwcap)
			continue;
		const char **value = slot(&cache, at + e[i].key);
		if (!*value)
			*value = at + e[i].value;
	}
}

static void want(const char *path)
{
	char *own = strdup(path);	/* the caller's string goes with its mapping */
	const char **known = slot(&seen, own);

	if (*known || queued == QUEUE)
		return;
	*known = own;
	queue[queued++] = own;
}

static int in_run_path(const char *run_path, const char *origin, const char *name)
{
	char path[4096];

	for (const char *dir = run_path; *dir;) {
		size_t n = strcspn(dir, ":");
		if (!strncmp(dir, "$ORIGIN", 7))
			snprintf(path, sizeof path, "%.*s%.*s/%s", (int)(strrchr(origin, '/') - origin), origin,
				 (int)n - 7, dir + 7, name);
		else
			snprintf(path, sizeof path, "%.*s/%s", (int)n, dir, name);
		if (!access(path, R_OK)) {
			want(path);
			return 1;
		}
		dir += n + (dir[n] == ':');
	}
	return 0;
}

static const char *at_address(const char *elf, const ElfW(Phdr) *ph, int count, ElfW(Addr) address)
{
	for (int i = 0; i < count; i++)
		if (ph[i].p_type == PT_LOAD && address >= ph[i].p_vaddr && address < ph[i].p_vaddr + ph[i].p_filesz)
			return elf + ph[i].p_offset + (address - ph[i].p_vaddr);
	return NULL;
}

static void needs_of(const char *path)
{
	size_t size;
	const char *elf = map(path, &size), *strings = NULL, *run_path = "";
	const ElfW(Ehdr) *head = (const void *)elf;
	const ElfW(Dyn) *dynamic = NULL;

	if (!elf)
		return;
	if (!memcmp(elf, ELFMAG, SELFMAG) && elf[EI_CLASS] == ELFCLASS64) {
		const ElfW(Phdr) *ph = (const void *)(elf + head->e_phoff);
		for (int i = 0; i < head->e_phnum; i++) {
			if (ph[i].p_type == PT_DYNAMIC)
				dynamic = (const void *)(elf + ph[i].p_offset);
			if (ph[i].p_type == PT_INTERP)
				want(elf + ph[i].p_offset);
		}
		for (const ElfW(Dyn) *d = dynamic; d && d->d_tag; d++)
			if (d->d_tag == DT_STRTAB)
				strings = at_address(elf, ph, head->e_phnum, d->d_un.d_ptr);
	}
	if (strings) {
		for (const ElfW(Dyn) *d = dynamic; d->d_tag; d++)
			if (d->d_tag == DT_RUNPATH || d->d_tag == DT_RPATH)
				run_path = strings + d->d_un.d_val;
		for (const ElfW(Dyn) *d = dynamic; d->d_tag; d++) {
			if (d->d_tag != DT_NEEDED || in_run_path(run_path, path, strings + d->d_un.d_val))
				continue;
			const char *found = *slot(&cache, strdup(strings + d->d_un.d_val));
			if (found)
				want(found);
		}
	}
	munmap((void *)elf, size);
}

int main(int argc, char **argv)
{
	int verbose = argc == 3 && !strcmp(argv[1], "-v");
	char line[4096];

	if (argc != 2 && !verbose)
		errx(2, "usage: elf_closure [-v] LIST");
	FILE *list = fopen(argv[argc - 1], "re");
	if (!list)
		err(1, "%s", argv[argc - 1]);
	read_cache();
	while (fgets(line, sizeof line, list)) {
		line[strcspn(line, "\n")] = 0;
		want(line);
	}
	int programs = queued;
	for (int i = 0; i < queued; i++)
		needs_of(queue[i]);
	libraries = queued - programs;
	if (verbose)
		for (int i = programs; i < queued; i++)
			puts(queue[i]);
	printf("%d\n", libraries);
	return 0;
}
