/* make_region.h - a tenant's folder for C tests: `grants`, `usage` and `locks`, with one GPU or more. */
#ifndef CGPU_TESTS_MAKE_REGION_H
#define CGPU_TESTS_MAKE_REGION_H

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "region.h"

struct made_region {
  char folder[256];
  struct cgpu_grants *grants; /* as the agent has it: writable */
  struct cgpu_usage *usage;
};

static inline void *made_file(const char *folder, const char *name, size_t bytes) {
  char path[300];
  snprintf(path, sizeof path, "%s/%s", folder, name);
  int fd = open(path, O_RDWR | O_CREAT | O_TRUNC, 0600);
  if (fd < 0 || ftruncate(fd, (off_t)bytes) != 0) {
    perror(path);
    exit(2);
  }
  void *memory = bytes ? mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0) : NULL;
  close(fd);
  if (memory == MAP_FAILED) exit(2);
  return memory;
}

/* A new folder below the working directory; GPU rows 0.. have the quota, and UUIDs of their number. */
static inline struct made_region make_region(unsigned gpus, uint64_t quota_bytes) {
  struct made_region made;
  char here[200];
  if (!getcwd(here, sizeof here)) exit(2);
  snprintf(made.folder, sizeof made.folder, "%s/region-XXXXXX", here);
  if (!mkdtemp(made.folder)) exit(2);
  made.grants = made_file(made.folder, "grants", sizeof *made.grants);
  made.usage = made_file(made.folder, "usage", sizeof *made.usage);
  made_file(made.folder, "locks", 0);
  made.grants->header.major = made.usage->header.major = CGPU_REGION_MAJOR;
  made.grants->header.size_bytes = sizeof *made.grants;
  made.usage->header.size_bytes = sizeof *made.usage;
  made.grants->header.gpu_count = gpus;
  for (unsigned gpu = 0; gpu < gpus; gpu++) {
    made.grants->gpu[gpu].uuid[0] = (uint8_t)(gpu + 1);
    made.grants->gpu[gpu].flags = CGPU_GPU_PRESENT;
    made.grants->gpu[gpu].quota_bytes = quota_bytes;
  }
  made.grants->header.magic = CGPU_GRANTS_MAGIC;
  made.usage->header.magic = CGPU_USAGE_MAGIC;
  return made;
}

static inline void remove_region(struct made_region *made) {
  static const char *const names[] = {"grants", "usage", "locks"};
  char path[300];
  for (int i = 0; i < 3; i++) {
    snprintf(path, sizeof path, "%s/%s", made->folder, names[i]);
    unlink(path);
  }
  rmdir(made->folder);
  munmap(made->grants, sizeof *made->grants);
  munmap(made->usage, sizeof *made->usage);
}

#endif
