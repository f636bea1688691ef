/* reclaim.c - returning what a dead process of a tenant had charged; for the agent, which decides when.
 *
 * The slot's lock proves that its owner is gone: the kernel releases it with the process. The caller
 * has made sure that the card has released the process's memory too.
 */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/futex.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <unistd.h>

#include "api.h"
#include "charge.h"

/* Slots of one tenant, each by itself: what a tenant writes into its file decides how many it seems to have left
 * behind, and must not cost the agent a process for each. The paths may be those of open files, /proc/self/fd/N: a
 * region's names may be gone.
 * 0: the slots are free now, and their charges returned. -EAGAIN: an owner lives. Otherwise a negative
 * errno value: -EINVAL for a slot out of range or a file that is not of this version, -EIO when the file
 * shrank under the attempt, or was written to all the time. Of several errors it is the last. */
CGPU_ARBITER_API int cgpu_arbiter_reclaim(const char *usage_path, const char *locks_path, const unsigned *slots,
                                          unsigned count);

/* A tenant that writes on and on to the words that are being changed can make the attempt fail for as long: so much
 * time of the processor it may take. All slots there can be take a hundredth of it. */
#define PROCESSOR_US 100000
#define STACK_BYTES 32768

/* The tenant's processes may write the file: nothing in it is trusted but its size, looked at first. */
static int map_usage(const char *path, struct cgpu_usage **usage) {
  int fd = open(path, O_RDWR | O_CLOEXEC);
  if (fd < 0) return -errno;
  struct stat status;
  void *memory = MAP_FAILED;
  int error = EINVAL;
  if (fstat(fd, &status) == 0 && status.st_size >= (off_t)sizeof **usage) {
    memory = mmap(NULL, sizeof **usage, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    error = errno;
  }
  close(fd);
  if (memory == MAP_FAILED) return -error;
  *usage = memory;
  return (*usage)->header.magic == CGPU_USAGE_MAGIC && (*usage)->header.major == CGPU_REGION_MAJOR ? 0 : -EINVAL;
}

static int reclaim_one(struct cgpu_usage *usage, int locks, unsigned slot) {
  struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = slot, .l_len = 1};
  if (fcntl(locks, F_OFD_SETLK, &lock) != 0) return errno == EACCES ? -EAGAIN : -errno;
  if (__atomic_load_n(&usage->slot[slot].header.state, __ATOMIC_ACQUIRE) == CGPU_SLOT_LIVE)
    cgpu_charge_reclaim(usage, slot);
  lock.l_type = F_UNLCK;
  return fcntl(locks, F_OFD_SETLK, &lock) == 0 ? 0 : -errno;
}

struct work {
  const char *usage_path, *locks_path;
  const unsigned *slots;
  unsigned count;
  struct cgpu_usage *usage; /* as long as it is mapped */
};

static int reclaim(struct work *work) {
  int result = map_usage(work->usage_path, &work->usage);
  if (result) return result;
  int locks = open(work->locks_path, O_RDWR | O_CLOEXEC);
  if (locks < 0) return -errno;
  for (unsigned i = 0; i < work->count; i++) {
    int error = reclaim_one(work->usage, locks, work->slots[i]);
    if (error) result = error;
  }
  syscall(SYS_futex, &work->usage->header.doorbell, FUTEX_WAKE, INT_MAX, NULL, NULL, 0);
  return result;
}

static void on_fault(int number) {
  (void)number;
  _exit(EIO);
}

/* The child calls nothing but the system. All its signals are blocked at first: their handlers are the agent's. */
static int child(void *argument) {
  static const int faults[] = {SIGBUS, SIGSEGV}; /* a core dump would take all with it that share the memory */
  sigset_t own;
  sigemptyset(&own);
  for (unsigned i = 0; i < sizeof faults / sizeof *faults; i++) {
    sigaction(faults[i], &(struct sigaction){.sa_handler = on_fault}, NULL);
    sigaddset(&own, faults[i]);
  }
  signal(SIGPROF, SIG_DFL);
  sigaddset(&own, SIGPROF);
  sigprocmask(SIG_UNBLOCK, &own, NULL);
  setitimer(ITIMER_PROF, &(struct itimerval){.it_value = {.tv_usec = PROCESSOR_US}}, NULL);
  _exit(-reclaim(argument));
}

/* In a child process: a tenant that truncates its file while it is mapped gets whoever touches it a SIGBUS, and that
 * must not be the agent. It shares the agent's memory, as a child of vfork does, since to copy the tables of a large
 * agent takes milliseconds; and it is waited for by this thread alone. */
int cgpu_arbiter_reclaim(const char *usage_path, const char *locks_path, const unsigned *slots, unsigned count) {
  for (unsigned i = 0; i < count; i++) {
    if (slots[i] >= CGPU_MAX_SLOTS) return -EINVAL;
  }
  _Alignas(16) unsigned char stack[STACK_BYTES];
  struct work work = {usage_path, locks_path, slots, count, NULL};
  sigset_t all, before;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before);
  pid_t pid = clone(child, stack + sizeof stack, CLONE_VM | CLONE_VFORK | SIGCHLD, &work);
  int error = errno;
  pthread_sigmask(SIG_SETMASK, &before, NULL);
  if (pid < 0) return -error;
  int status;
  while (waitpid(pid, &status, 0) < 0) {
    if (errno != EINTR) return -errno;
  }
  if (work.usage) munmap(work.usage, sizeof *work.usage);
  return WIFEXITED(status) ? -WEXITSTATUS(status) : -EIO;
}
