/* reclaim.c - returning what a dead process of a tenant had charged; for the agent, which decides when.
 *
 * The slot's lock proves that its owner is gone: the kernel releases it with the process. The caller
 * has made sure that the card has released the process's memory too.
 */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/futex.h>
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
  if ((*usage)->header.magic == CGPU_USAGE_MAGIC && (*usage)->header.major == CGPU_REGION_MAJOR) return 0;
  munmap(memory, sizeof **usage);
  return -EINVAL;
}

static int reclaim_one(struct cgpu_usage *usage, int locks, unsigned slot) {
  struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = slot, .l_len = 1};
  if (fcntl(locks, F_OFD_SETLK, &lock) != 0) return errno == EACCES ? -EAGAIN : -errno;
  if (__atomic_load_n(&usage->slot[slot].header.state, __ATOMIC_ACQUIRE) == CGPU_SLOT_LIVE)
    cgpu_charge_reclaim(usage, slot);
  lock.l_type = F_UNLCK;
  return fcntl(locks, F_OFD_SETLK, &lock) == 0 ? 0 : -errno;
}

static int reclaim(const char *usage_path, const char *locks_path, const unsigned *slots, unsigned count) {
  struct cgpu_usage *usage = NULL;
  int result = map_usage(usage_path, &usage);
  if (result) return result;
  int locks = open(locks_path, O_RDWR | O_CLOEXEC);
  if (locks < 0) result = -errno;
  for (unsigned i = 0; locks >= 0 && i < count; i++) {
    int error = reclaim_one(usage, locks, slots[i]);
    if (error) result = error;
  }
  syscall(SYS_futex, &usage->header.doorbell, FUTEX_WAKE, INT_MAX, NULL, NULL, 0);
  if (locks >= 0) close(locks);
  munmap(usage, sizeof *usage);
  return result;
}

/* In a child process: a tenant that truncates its file while it is mapped gets whoever touches it a
 * SIGBUS, and that must not be the agent. The child calls nothing but the system. */
int cgpu_arbiter_reclaim(const char *usage_path, const char *locks_path, const unsigned *slots, unsigned count) {
  for (unsigned i = 0; i < count; i++) {
    if (slots[i] >= CGPU_MAX_SLOTS) return -EINVAL;
  }
  pid_t child = fork();
  if (child < 0) return -errno;
  if (child == 0) {
    sigset_t none;
    sigemptyset(&none);
    signal(SIGPROF, SIG_DFL);
    sigprocmask(SIG_SETMASK, &none, NULL);
    setitimer(ITIMER_PROF, &(struct itimerval){.it_value = {.tv_usec = PROCESSOR_US}}, NULL);
    _exit(-reclaim(usage_path, locks_path, slots, count));
  }
  int status;
  while (waitpid(child, &status, 0) < 0) {
    if (errno != EINTR) return -errno;
  }
  return WIFEXITED(status) ? -WEXITSTATUS(status) : -EIO;
}
