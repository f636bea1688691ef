/* region.c - the tenant's files: where they are, whether they can be used, which device is whose.
 *
 * The folder is the place where containers have it mounted: a container cannot choose another for itself.
 * Where there is none, it is the one through which this library was preloaded: `cgpu run` writes
 * TENANT/../../lib/libcgpu.so, so that a program that changes or loses its variables stays the tenant
 * for as long as it loads this library at all. Else it is the one that CGPU_REGION names. The variable is
 * read once, before the first mapping. Naming a folder makes the process a tenant: if its files cannot be
 * used, allocations are refused. With none of the three there is no tenant.
 */
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "memory.h"
#include "region_slot.h"

#define MOUNTED "/.cgpu/tenant"   /* model/container.py says why there */
#define THROUGH "/../../lib/libcgpu" /* behind the folder, in the path of `cgpu run` */

/* ---- memory that a forked child finds zeroed ---- */

_Atomic(struct cg_process *) cg_process_memory;

static void in_child(void) {
  struct cg_process *process = atomic_load(&cg_process_memory);
  if (process) memset(process, 0, sizeof *process);
  cg_slot_forget_parent();
  cg_gate_after_fork();
}

struct cg_process *cg_process_create(void) {
  static struct cg_process fallback; /* without memory for a mapping; forks are then seen by the handler alone */
  int saved = errno;
  struct cg_process *fresh = mmap(NULL, sizeof *fresh, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (fresh == MAP_FAILED) fresh = &fallback;
  else madvise(fresh, sizeof *fresh, MADV_WIPEONFORK);
  struct cg_process *first = NULL;
  if (atomic_compare_exchange_strong(&cg_process_memory, &first, fresh)) {
    pthread_atfork(NULL, NULL, in_child);
    first = fresh;
  } else if (fresh != &fallback) {
    munmap(fresh, sizeof *fresh);
  }
  errno = saved;
  return first;
}

/* ---- the files ---- */

/* Opens and maps one file of the folder; null, with the cause said, when it cannot be used. */
static void *map_file(const char *folder, const char *name, uint64_t magic, size_t bytes, int open_flags, int prot) {
  char path[4200];
  snprintf(path, sizeof path, "%s/%s", folder, name);
  int fd = open(path, open_flags | O_CLOEXEC | O_NOCTTY);
  if (fd < 0) {
    cg_say("memory is refused: cannot open %s: %s [CGPU-SHIM-OPEN]", path, strerror(errno));
    return NULL;
  }
  struct stat status;
  if (fstat(fd, &status) != 0 || !S_ISREG(status.st_mode) || (uint64_t)status.st_size < bytes) {
    cg_say("memory is refused: %s is truncated: %lld bytes, expected %zu [CGPU-SHIM-TRUNCATED]", path,
           (long long)status.st_size, bytes);
    close(fd);
    return NULL;
  }
  void *memory = mmap(NULL, bytes, prot, MAP_SHARED, fd, 0);
  int error = errno;
  close(fd);
  if (memory == MAP_FAILED) {
    cg_say("memory is refused: cannot map %s: %s [CGPU-SHIM-MAP]", path, strerror(error));
    return NULL;
  }
  const struct cgpu_grants_header *header = memory; /* both files begin alike */
  if (__atomic_load_n(&header->magic, __ATOMIC_ACQUIRE) != magic) {
    cg_say("memory is refused: %s is not a file of cgpu [CGPU-SHIM-FOREIGN]", path);
  } else if (header->major != CGPU_REGION_MAJOR) {
    cg_say("memory is refused: %s has version %u, this library knows version %u [CGPU-SHIM-VERSION]", path,
           header->major, CGPU_REGION_MAJOR);
  } else if (header->size_bytes > (uint64_t)status.st_size) {
    cg_say("memory is refused: %s is truncated: %lld bytes, expected %llu [CGPU-SHIM-TRUNCATED]", path,
           (long long)status.st_size, (unsigned long long)header->size_bytes);
  } else {
    return memory;
  }
  munmap(memory, bytes);
  return NULL;
}

_Static_assert(offsetof(struct cgpu_grants_header, major) == offsetof(struct cgpu_usage_header, major) &&
                   offsetof(struct cgpu_grants_header, size_bytes) == offsetof(struct cgpu_usage_header, size_bytes),
               "both files begin alike");

/* The folder in the path by which this library was loaded; false when that path names none. */
static bool loaded_through(char *buffer, size_t size) {
  Dl_info self;
  if (!dladdr((const void *)(uintptr_t)&cg_files, &self) || !self.dli_fname) return false;
  const char *end = strstr(self.dli_fname, THROUGH);
  return end && self.dli_fname[0] == '/' &&
         snprintf(buffer, size, "%.*s", (int)(end - self.dli_fname), self.dli_fname) < (int)size;
}

/* The tenant's folder as an absolute path, or null when this process is no tenant. */
static const char *find_folder(char *buffer, size_t size) {
  if (access(MOUNTED, F_OK) == 0) return MOUNTED;
  if (loaded_through(buffer, size)) return buffer;
  const char *named = getenv("CGPU_REGION");
  if (!named || named[0] == '/' || !getcwd(buffer, size)) return named;
  size_t length = strlen(buffer);
  snprintf(buffer + length, size - length, "/%s", named);
  return buffer;
}

static void find_and_map(struct cg_files *files) {
  char absolute[4096];
  const char *folder = find_folder(absolute, sizeof absolute);
  if (!folder) return; /* CG_REGION_NONE */
  files->state = CG_REGION_BROKEN;
  if (snprintf(files->locks, sizeof files->locks, "%s/locks", folder) >= (int)sizeof files->locks) {
    cg_say("memory is refused: the path in CGPU_REGION is too long [CGPU-SHIM-PATH]");
    return;
  }
  files->grants = map_file(folder, "grants", CGPU_GRANTS_MAGIC, sizeof(struct cgpu_grants), O_RDONLY, PROT_READ);
  if (!files->grants) return;
  files->usage =
      map_file(folder, "usage", CGPU_USAGE_MAGIC, sizeof(struct cgpu_usage), O_RDWR, PROT_READ | PROT_WRITE);
  if (!files->usage) return;
  if (access(files->locks, W_OK) != 0) {
    cg_say("memory is refused: cannot write %s: %s [CGPU-SHIM-LOCKS]", files->locks, strerror(errno));
    return;
  }
  files->state = CG_REGION_READY;
}

const struct cg_files *cg_files(void) {
  static struct cg_files found;
  static _Atomic(bool) looked;
  if (atomic_load_explicit(&looked, memory_order_acquire)) return &found;
  struct cg_process *process = cg_process();
  int saved = errno, cancel;
  pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, &cancel); /* open() would cancel with the lock held */
  cg_lock_take(&process->region_lock);
  if (!atomic_load(&looked)) {
    memset(&found, 0, sizeof found);
    find_and_map(&found);
    atomic_store_explicit(&looked, true, memory_order_release);
  }
  cg_lock_give(&process->region_lock);
  pthread_setcancelstate(cancel, NULL);
  errno = saved;
  return &found;
}

const struct cg_region *cg_region(void) {
  struct cg_process *process = cg_process();
  if (atomic_load_explicit(&process->registered, memory_order_acquire)) return &process->region;
  const struct cg_files *files = cg_files();
  const struct cg_driver *driver = cg_driver();
  int saved = errno, cancel, version = 0;
  if (driver && driver->x_cuDriverGetVersion) driver->x_cuDriverGetVersion(&version);
  pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, &cancel);
  cg_lock_take(&process->region_lock);
  if (!atomic_load(&process->registered)) {
    process->driver_version = version;
    process->region.grants = files->grants;
    process->region.usage = files->usage;
    bool usable = files->state == CG_REGION_READY, registered = usable && cg_slot_register(process);
    /* Without a slot it is tried again at the next call: slots become free. */
    __atomic_store_n(&process->region.state, usable && !registered ? CG_REGION_BROKEN : files->state, __ATOMIC_RELEASE);
    atomic_store_explicit(&process->registered, !usable || registered, memory_order_release);
  }
  cg_lock_give(&process->region_lock);
  pthread_setcancelstate(cancel, NULL);
  errno = saved;
  return &process->region;
}

bool cg_is_tenant(void) { return cg_files()->state == CG_REGION_READY; }

bool cg_refuses_managed(void) {
  const struct cg_files *files = cg_files();
  return files->state == CG_REGION_READY &&
         __atomic_load_n(&files->grants->header.flags, __ATOMIC_RELAXED) & CGPU_TENANT_REFUSE_MANAGED;
}

/* ---- devices ---- */

static int gpu_of_uuid(const struct cgpu_grants *grants, const CUuuid *uuid) {
  for (unsigned gpu = 0; gpu < CGPU_MAX_GPUS; gpu++) {
    const struct cgpu_grants_gpu *row = &grants->gpu[gpu];
    if (__atomic_load_n(&row->flags, __ATOMIC_ACQUIRE) & CGPU_GPU_PRESENT && memcmp(row->uuid, uuid, 16) == 0)
      return (int)gpu;
  }
  return -1;
}

int cg_gpu_of_device(CUdevice device) {
  if (device < 0 || device >= CG_MAX_DEVICES) return -1;
  struct cg_process *process = cg_process();
  uint8_t known = atomic_load_explicit(&process->gpu_of_device[device], memory_order_relaxed);
  if (known) return known - 1;
  const struct cg_files *files = cg_files();
  const struct cg_driver *driver = cg_driver();
  CUuuid uuid;
  if (files->state != CG_REGION_READY || !driver || !driver->x_cuDeviceGetUuid) return -1;
  if (driver->x_cuDeviceGetUuid(&uuid, device) != CUDA_SUCCESS) return -1;
  int gpu = gpu_of_uuid(files->grants, &uuid);
  if (gpu >= 0) atomic_store_explicit(&process->gpu_of_device[device], (uint8_t)(gpu + 1), memory_order_relaxed);
  return gpu;
}

int cg_gpu_of_location(const CUmemLocation *location) {
  if (location->type == CU_MEM_LOCATION_TYPE_DEVICE) return cg_gpu_of_device(location->id);
  if (location->type == CU_MEM_LOCATION_TYPE_DEVICE_LOCALITY_DOMAIN) return cg_gpu_of_device(location->localized.deviceId);
  return -1;
}

int cg_gpu_current(void) {
  const struct cg_driver *driver = cg_driver();
  CUdevice device;
  if (!driver || !driver->x_cuCtxGetDevice || driver->x_cuCtxGetDevice(&device) != CUDA_SUCCESS) return -1;
  return cg_gpu_of_device(device);
}
