/* The floor of an entry: the bare system calls of a cell and an exec. No policy, no lookup, no log, no verification.
 *
 *   enter [-n] JAIL CMD ARG...      installed set-uid root, run by the user who is to be inside; -n: own network too
 *
 * Namespaces, five mounts, pivot_root, credentials, no_new_privs, a seccomp filter shaped as an interval tree, exec;
 * the parent waits. */
#define _GNU_SOURCE
#include <err.h>
#include <grp.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sched.h>
#include <signal.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

/* Denied numbers: each makes two borders, so the tree has about thirty intervals, as a merged allow-list has. */
static const unsigned denied[] = {
	SYS_mount, SYS_umount2, SYS_pivot_root, SYS_swapon, SYS_reboot, SYS_init_module, SYS_kexec_load, SYS_add_key,
	SYS_unshare, SYS_perf_event_open, SYS_setns, SYS_bpf, SYS_userfaultfd, SYS_io_uring_setup, SYS_open_tree,
};
enum { DENIED = sizeof denied / sizeof *denied, MAX = 2 * DENIED + 1 };

struct interval { unsigned from, verdict; };

static int by_number(const void *a, const void *b)
{
	unsigned x = *(const unsigned *)a, y = *(const unsigned *)b;
	return x < y ? -1 : x > y;
}

static struct sock_filter *emit(struct sock_filter *at, const struct interval *set, int count)
{
	if (count == 1) {
		*at = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, set->verdict);
		return at + 1;
	}
	int left = count / 2;
	*at = (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JGE | BPF_K, set[left].from, 2 * left - 1, 0);
	return emit(emit(at + 1, set, left), set + left, count - left);
}

static void load_filter(void)
{
	unsigned numbers[DENIED];
	struct interval set[MAX] = { { 0, SECCOMP_RET_ALLOW } };
	struct sock_filter program[2 * MAX + 1] = {
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
	};
	int count = 1;

	memcpy(numbers, denied, sizeof denied);
	qsort(numbers, DENIED, sizeof *numbers, by_number);
	for (int i = 0; i < DENIED; i++) {
		if (set[count - 1].from == numbers[i])
			count--;
		set[count++] = (struct interval){ numbers[i], SECCOMP_RET_ERRNO | 1 };
		set[count++] = (struct interval){ numbers[i] + 1, SECCOMP_RET_ALLOW };
	}
	struct sock_fprog filter = { emit(program + 1, set, count) - program, program };
	if (syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, &filter))
		err(125, "seccomp");
}

static void try(int failed, const char *what)
{
	if (failed)
		err(125, "%s", what);
}

static void inside(const char *jail, uid_t uid, gid_t gid, char **argv)
{
	char *env[] = { "PATH=/usr/bin:/bin", "HOME=/", "TERM=dumb", NULL };

	try(mount(NULL, "/", NULL, MS_REC | MS_SLAVE, NULL), "slave");
	try(mount(jail, jail, NULL, MS_BIND, NULL), jail);
	try(chdir(jail), jail);
	try(mount("proc", "proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL), "proc");
	try(mount("tmpfs", "tmp", "tmpfs", MS_NOSUID | MS_NODEV, "mode=1777"), "tmp");
	try(mount(NULL, jail, NULL, MS_REMOUNT | MS_BIND | MS_RDONLY | MS_NOSUID | MS_NODEV, NULL), "remount");
	try(chdir(jail), jail);
	try(syscall(SYS_pivot_root, ".", "."), "pivot_root");
	try(umount2(".", MNT_DETACH), "umount2");
	try(chdir("/"), "/");
	try(setgroups(0, NULL), "setgroups");
	try(setresgid(gid, gid, gid), "setresgid");
	try(setresuid(uid, uid, uid), "setresuid");
	try(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "no_new_privs");
	load_filter();
	execve(argv[0], argv, env);
	err(127, "%s", argv[0]);
}

int main(int argc, char **argv)
{
	unsigned long flags = CLONE_NEWNS | CLONE_NEWPID | CLONE_NEWIPC | CLONE_NEWUTS | CLONE_NEWCGROUP | SIGCHLD;
	int status, first = 1;

	if (argc > 1 && !strcmp(argv[1], "-n")) {
		flags |= CLONE_NEWNET;
		first = 2;
	}
	if (argc < first + 2)
		errx(2, "usage: enter [-n] JAIL CMD ARG...");
	uid_t uid = getuid();
	gid_t gid = getgid();
	pid_t pid = syscall(SYS_clone, flags, 0, 0, 0, 0);
	if (pid == 0)
		inside(argv[first], uid, gid, argv + first + 1);
	try(pid < 0, "clone");
	try(setresuid(uid, uid, uid), "setresuid");
	while (waitpid(pid, &status, 0) < 0)
		;
	return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}
