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

/* What became of reading a bundle's config.json. */
enum outcome { ABSENT, UNREADABLE, READ };

/* Reads the whole file; *text, with a NUL behind it, is the caller's to free. */
static enum outcome read_file(int fd, char **text, size_t *length) {
  struct stat status;
  if (fstat(fd, &status) != 0 || !S_ISREG(status.st_mode)) return ABSENT;
  if (status.st_size > (off_t)SCAN_MAX) return UNREADABLE;
  size_t room = (size_t)status.st_size;
  *text = malloc(room + 1);
  if (!*text) return UNREADABLE;
  *length = 0;
  while (*length < room) {
    ssize_t got = read(fd, *text + *length, room - *length);
    if (got < 0 && errno == EINTR) continue;
    if (got <= 0) break;
    *length += (size_t)got;
  }
  (*text)[*length] = 0;
  return READ;
}

static enum outcome read_config(const char *bundle, char **text, size_t *length) {
  char path[4200];
  if (snprintf(path, sizeof path, "%s/config.json", bundle) >= (int)sizeof path) return ABSENT;
  int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
  if (fd < 0) return ABSENT;
  enum outcome outcome = read_file(fd, text, length);
  close(fd);
  return outcome;
}

bool bundle_asks(const char *bundle) {
  char *text = NULL;
  size_t length = 0;
  enum outcome outcome = read_config(bundle, &text, &length);
  if (outcome != READ) return outcome == UNREADABLE; /* cgpu.oci says why */
  bool asks = holds_word(text, length);
  free(text);
  return asks;
}

char *bundle_config(const char *bundle) {
  char *text = NULL;
  size_t length = 0;
  return read_config(bundle, &text, &length) == READ ? text : NULL;
}
