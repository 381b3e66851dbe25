/* The first program of a machine in which a jail's tree is read: which way of bringing it there costs what?
 *
 *     fs=TYPE from=DEVICE [options=…]   on the kernel's line: mounted on /jail; without fs=, what lies there is read
 *     end=reset | off                   how the machine ends: a PC by a reset, user-mode Linux by being switched off
 *
 * Every file below /jail is read twice. Says one line: "mounted US first US again US files N bytes N", and what this kernel
 * has of what a cell is made of: "landlock VERSION seccomp YES" (0: not). */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/reboot.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

static long files, bytes;
static char line[4096], buffer[64 << 10];

static long now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000000 + t.tv_nsec / 1000;
}

/* The value of a word of the kernel's line, or NULL. */
static char *said(const char *name) {
    for (char *at = line; (at = strstr(at, name)); at++)
        if ((at == line || at[-1] == ' ') && at[strlen(name)] == '=') {
            at += strlen(name) + 1;
            return strndup(at, strcspn(at, " \n"));
        }
    return NULL;
}

static void load_modules(void) {
    char name[256], path[300];
    FILE *order = fopen("/modules/order", "r");
    while (order && fgets(name, sizeof name, order)) {
        name[strcspn(name, "\n")] = 0;
        snprintf(path, sizeof path, "/modules/%s", name);
        int fd = open(path, O_RDONLY);
        if (syscall(SYS_finit_module, fd, "", 0) && errno != EEXIST) printf("cannot load %s: %s\n", name, strerror(errno));
        close(fd);
    }
}

static int visit(const char *path, const struct stat *stat, int kind, struct FTW *ftw) {
    (void)stat, (void)ftw;
    if (kind != FTW_F) return 0;
    int fd = open(path, O_RDONLY);
    if (fd < 0) return 0;
    for (ssize_t count; (count = read(fd, buffer, sizeof buffer)) > 0;) bytes += count;
    files++;
    close(fd);
    return 0;
}

static long read_all(void) {
    long start = now();
    files = bytes = 0;
    nftw("/jail", visit, 32, FTW_PHYS);
    return now() - start;
}

int main(void) {
    mkdir("/proc", 0755), mkdir("/dev", 0755), mkdir("/jail", 0755);
    mount("proc", "/proc", "proc", 0, NULL);
    mount("dev", "/dev", "devtmpfs", 0, NULL);
    int out = open("/dev/console", O_WRONLY);
    if (out >= 0) dup2(out, 1), dup2(out, 2);
    setvbuf(stdout, NULL, _IONBF, 0);
    int fd = open("/proc/cmdline", O_RDONLY);
    if (read(fd, line, sizeof line - 1) < 0) return 1;
    load_modules();
    char *type = said("fs"), *from = said("from"), *options = said("options"), *end = said("end");
    long start = now(), mounted = 0;
    if (type) {
        /* A device appears when it does. */
        for (int i = 0; i < 20000 && mount(from, "/jail", type, MS_RDONLY, options); i++)
            if (i == 19999) printf("cannot mount %s: %s\n", type, strerror(errno)); else usleep(500);
        mounted = now() - start;
    }
    long first = read_all(), again = read_all();
    printf("mounted %ld first %ld again %ld files %ld bytes %ld\n", mounted, first, again, files, bytes);
    /* 444: landlock_create_ruleset, asked for its version. */
    long landlock = syscall(444, NULL, 0, 1);
    printf("landlock %ld seccomp %d\n", landlock < 0 ? 0 : landlock, prctl(PR_GET_SECCOMP) == 0);
    if (out >= 0) fsync(out);
    reboot(end && !strcmp(end, "off") ? RB_POWER_OFF : RB_AUTOBOOT);
    for (;;) pause();
}
