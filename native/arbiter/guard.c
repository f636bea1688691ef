/* guard.c - see guard.h. The handler calls nothing but the system. */
#include "guard.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define NAME "/grants" /* model/region_files.py */

static uintptr_t page_bytes;

static uintptr_t hexadecimal(const char **text) {
  uintptr_t value = 0;
  for (;; ++*text) {
    char c = **text;
    if (c >= '0' && c <= '9') value = value << 4 | (uintptr_t)(c - '0');
    else if (c >= 'a' && c <= 'f') value = value << 4 | (uintptr_t)(c - 'a' + 10);
    else return value;
  }
}

/* Whether a line of /proc/self/maps, "from-to rw-s ... NAME", is of a grants file and has the address. */
static bool is_of(const char *line, uintptr_t address) {
  uintptr_t from = hexadecimal(&line);
  if (*line++ != '-') return false;
  uintptr_t to = hexadecimal(&line);
  return address >= from && address < to && strncmp(line, " rw-s ", 6) == 0 && strstr(line, NAME);
}

static bool in_grants(uintptr_t address) {
  char line[512];
  size_t length = 0;
  char c;
  bool found = false;
  int fd = open("/proc/self/maps", O_RDONLY | O_CLOEXEC);
  while (fd >= 0 && !found && read(fd, &c, 1) == 1) { /* once in a life, if ever */
    if (c != '\n') {
      if (length < sizeof line - 1) line[length++] = c;
      continue;
    }
    line[length] = 0;
    length = 0;
    found = is_of(line, address);
  }
  if (fd >= 0) close(fd);
  return found;
}

static void on_bus_error(int number, siginfo_t *info, void *context) {
  (void)context;
  int saved = errno;
  uintptr_t address = (uintptr_t)info->si_addr;
  void *page = (void *)(address & ~(page_bytes - 1));
  bool mended = info->si_code == BUS_ADRERR && in_grants(address) &&
                mmap(page, page_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) == page;
  if (!mended) signal(number, SIG_DFL); /* it happens again at once, and ends the process */
  errno = saved;
}

void cgpu_guard_grants(void) {
  page_bytes = (uintptr_t)sysconf(_SC_PAGESIZE);
  struct sigaction action = {.sa_sigaction = on_bus_error, .sa_flags = SA_SIGINFO | SA_RESTART};
  sigemptyset(&action.sa_mask);
  sigaction(SIGBUS, &action, NULL);
}
