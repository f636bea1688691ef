/* reclaim.c - returning what a dead process of a tenant had charged; for the agent, which decides when.
 *
 * The slot's lock proves that its owner is gone: the kernel releases it with the process. The caller
 * has made sure that the card has released the process's memory too.
 */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/futex.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "charge.h"

#define EXPORT __attribute__((visibility("default")))

/* The paths may be those of open files, /proc/self/fd/N: a region's names may be gone.
 * 0: the slot is free now, and its charge returned. -EAGAIN: its owner lives. Otherwise a negative
 * errno value: -EINVAL for a slot out of range or a file that is not of this version, -EIO when the file
 * shrank under the attempt. */
EXPORT int cgpu_arbiter_reclaim(const char *usage_path, const char *locks_path, unsigned slot);

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

static int reclaim(const char *usage_path, const char *locks_path, unsigned slot) {
  struct cgpu_usage *usage = NULL;
  int result = map_usage(usage_path, &usage);
  if (result) return result;
  int locks = open(locks_path, O_RDWR | O_CLOEXEC);
  struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = slot, .l_len = 1};
  if (locks < 0 || fcntl(locks, F_OFD_SETLK, &lock) != 0) {
    result = errno == EACCES && locks >= 0 ? -EAGAIN : -errno;
  } else if (__atomic_load_n(&usage->slot[slot].header.state, __ATOMIC_ACQUIRE) == CGPU_SLOT_LIVE) {
    cgpu_charge_reclaim(usage, slot);
    syscall(SYS_futex, &usage->header.doorbell, FUTEX_WAKE, INT_MAX, NULL, NULL, 0);
  }
  if (locks >= 0) close(locks);
  munmap(usage, sizeof *usage);
  return result;
}

/* In a child process: a tenant that truncates its file while it is mapped gets whoever touches it a
 * SIGBUS, and that must not be the agent. The child calls nothing but the system. */
int cgpu_arbiter_reclaim(const char *usage_path, const char *locks_path, unsigned slot) {
  if (slot >= CGPU_MAX_SLOTS) return -EINVAL;
  pid_t child = fork();
  if (child < 0) return -errno;
  if (child == 0) _exit(-reclaim(usage_path, locks_path, slot));
  int status;
  while (waitpid(child, &status, 0) < 0) {
    if (errno != EINTR) return -errno;
  }
  return WIFEXITED(status) ? -WEXITSTATUS(status) : -EIO;
}
