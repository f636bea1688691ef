/* scan.c - looking through config.json without understanding it: a container that holds none of the
 * words is nothing to cgpu, and must not pay for it. */
#include "scan.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* How requests appear in JSON: variables of a process, and keys of annotations (some writers escape '/'). */
static const char *const words[] = {"ALIYUN_COM_GPU_MEM_CONTAINER", "\"CGPU_", "\"cgpu.dev/", "\"cgpu.dev\\/"};

static bool holds_word(const char *text, size_t length) {
  for (size_t i = 0; i < sizeof words / sizeof *words; i++)
    if (memmem(text, length, words[i], strlen(words[i]))) return true;
  return false;
}

static bool file_asks(int fd) {
  struct stat status;
  if (fstat(fd, &status) != 0 || !S_ISREG(status.st_mode)) return false;
  if (status.st_size > (off_t)SCAN_MAX) return true;
  size_t room = (size_t)status.st_size, length = 0;
  char *text = malloc(room + 1);
  if (!text) return true; /* cgpu.oci says that there is no memory */
  while (length < room) {
    ssize_t got = read(fd, text + length, room - length);
    if (got < 0 && errno == EINTR) continue;
    if (got <= 0) break;
    length += (size_t)got;
  }
  bool asks = holds_word(text, length);
  free(text);
  return asks;
}

bool bundle_asks(const char *bundle) {
  char path[4200];
  if (snprintf(path, sizeof path, "%s/config.json", bundle) >= (int)sizeof path) return false;
  int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
  if (fd < 0) return false;
  bool asks = file_asks(fd);
  close(fd);
  return asks;
}
