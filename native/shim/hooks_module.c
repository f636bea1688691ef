/* hooks_module.c - code: a module or library puts its code and global variables on the card.
 *
 * The driver does not say how much; what is reserved is an estimate from the image: the sections that
 * an ELF image loads, uninitialised variables included; the length that a fat binary's header gives;
 * the length of PTX text. At least one granule. Lazy loading may take it later, or less.
 */
#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "memory.h"

#define CUDA_MACHINE 190 /* e_machine of device code (EM_CUDA) */
#define WRAPPER_MAGIC "\xb1\x43\x62\x46"   /* struct fat_wrapper, as nvcc emits it */
#define FATBINARY_MAGIC "\x50\xed\x55\xba" /* struct fat_header */

struct fat_wrapper {
  uint32_t magic, version;
  const void *data;
};
struct fat_header {
  uint32_t magic;
  uint16_t version, header_bytes;
  uint64_t payload_bytes;
};

static uint64_t elf_bytes(const unsigned char *image, uint64_t readable) {
  Elf64_Ehdr header;
  if (readable < sizeof header) return 0;
  memcpy(&header, image, sizeof header);
  if (header.e_ident[EI_CLASS] != ELFCLASS64 || header.e_machine != CUDA_MACHINE) return 0;
  if (header.e_shentsize != sizeof(Elf64_Shdr)) return 0;
  if (header.e_shoff > readable || header.e_shnum * sizeof(Elf64_Shdr) > readable - header.e_shoff) return 0;
  uint64_t bytes = 0;
  for (unsigned i = 0; i < header.e_shnum; i++) {
    Elf64_Shdr section;
    memcpy(&section, image + header.e_shoff + i * sizeof section, sizeof section);
    if (section.sh_flags & SHF_ALLOC && __builtin_add_overflow(bytes, section.sh_size, &bytes)) return UINT64_MAX;
  }
  return bytes;
}

/* What an image in memory takes on the card. Images carry no length: the driver reads them as far as
 * their headers say, and so does this. No magic number holds a zero byte, so that comparing stops
 * inside shorter images. */
static uint64_t image_bytes(const char *image) {
  if (!image) return 0;
  if (strncmp(image, ELFMAG, SELFMAG) == 0) return elf_bytes((const unsigned char *)image, UINT64_MAX);
  if (strncmp(image, WRAPPER_MAGIC, 4) == 0) {
    const char *wrapped = ((const struct fat_wrapper *)(const void *)image)->data;
    /* One in another, or in itself without end, is no image to the driver either. */
    return wrapped && strncmp(wrapped, WRAPPER_MAGIC, 4) != 0 ? image_bytes(wrapped) : 0;
  }
  if (strncmp(image, FATBINARY_MAGIC, 4) == 0) return ((const struct fat_header *)(const void *)image)->payload_bytes;
  return strlen(image); /* PTX */
}

/* The same of a file; its size where it is no plain ELF image. 0 when it cannot be read: the driver
 * will say so. */
static uint64_t file_bytes(const char *path) {
  int saved = errno;
  int fd = path ? open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY) : -1;
  struct stat status;
  uint64_t bytes = 0;
  if (fd >= 0 && fstat(fd, &status) == 0 && S_ISREG(status.st_mode) && status.st_size > 0) {
    bytes = (uint64_t)status.st_size;
    void *image = mmap(NULL, bytes, PROT_READ, MAP_PRIVATE, fd, 0);
    if (image != MAP_FAILED) {
      uint64_t loaded = bytes >= SELFMAG && memcmp(image, ELFMAG, SELFMAG) == 0 ? elf_bytes(image, bytes) : 0;
      munmap(image, bytes);
      if (loaded) bytes = loaded;
    }
  }
  if (fd >= 0) close(fd);
  errno = saved;
  return bytes;
}

struct loading {
  int gpu;
  enum cg_verdict verdict;
  uint64_t bytes;
};

/* A library may be loaded where no context is current; then its code comes onto the card later, and
 * the agent finds it there. */
static bool begin(struct loading *loading, uint64_t (*measure)(const char *), const void *source) {
  *loading = (struct loading){.gpu = cg_gpu_current(), .verdict = CG_PASS};
  if (loading->gpu < 0 && cg_region()->state != CG_REGION_BROKEN) return true;
  uint64_t bytes = measure(source);
  loading->bytes = bytes ? cg_granules(bytes) : CG_GRANULE_BYTES;
  loading->verdict = cg_reserve_estimate(loading->gpu, loading->bytes);
  return loading->verdict != CG_REFUSED;
}

static CUresult finish(const struct loading *loading, CUresult result, enum cg_kind kind, const void *handle) {
  if (loading->verdict != CG_GRANTED) return result;
  struct cg_block block = {.key = (uint64_t)(uintptr_t)handle,
                           .bytes = loading->bytes,
                           .kind = (uint8_t)kind,
                           .gpu = (uint8_t)loading->gpu};
  if (kind == CG_KIND_MODULE) cg_driver()->x_cuCtxGetCurrent(&block.context); /* a library has no context */
  if (result != CUDA_SUCCESS || !cg_block_add(&block)) cg_return_estimate(loading->gpu, loading->bytes);
  return result;
}

CG_EXPORT CUresult cuModuleLoad(CUmodule *module, const char *fname) {
  CG_DRIVER(cuModuleLoad);
  struct loading loading;
  if (!begin(&loading, file_bytes, fname)) return CUDA_ERROR_OUT_OF_MEMORY;
  CUresult result = driver->cuModuleLoad(module, fname);
  return finish(&loading, result, CG_KIND_MODULE, result == CUDA_SUCCESS ? *module : NULL);
}

CG_EXPORT CUresult cuModuleLoadData(CUmodule *module, const void *image) {
  CG_DRIVER(cuModuleLoadData);
  struct loading loading;
  if (!begin(&loading, image_bytes, image)) return CUDA_ERROR_OUT_OF_MEMORY;
  CUresult result = driver->cuModuleLoadData(module, image);
  return finish(&loading, result, CG_KIND_MODULE, result == CUDA_SUCCESS ? *module : NULL);
}

CG_EXPORT CUresult cuModuleLoadDataEx(CUmodule *module, const void *image, unsigned int numOptions,
                                      CUjit_option *options, void **optionValues) {
  CG_DRIVER(cuModuleLoadDataEx);
  struct loading loading;
  if (!begin(&loading, image_bytes, image)) return CUDA_ERROR_OUT_OF_MEMORY;
  CUresult result = driver->cuModuleLoadDataEx(module, image, numOptions, options, optionValues);
  return finish(&loading, result, CG_KIND_MODULE, result == CUDA_SUCCESS ? *module : NULL);
}

CG_EXPORT CUresult cuModuleLoadFatBinary(CUmodule *module, const void *fatCubin) {
  CG_DRIVER(cuModuleLoadFatBinary);
  struct loading loading;
  if (!begin(&loading, image_bytes, fatCubin)) return CUDA_ERROR_OUT_OF_MEMORY;
  CUresult result = driver->cuModuleLoadFatBinary(module, fatCubin);
  return finish(&loading, result, CG_KIND_MODULE, result == CUDA_SUCCESS ? *module : NULL);
}

CG_EXPORT CUresult cuLibraryLoadData(CUlibrary *library, const void *code, CUjit_option *jitOptions,
                                     void **jitOptionsValues, unsigned int numJitOptions,
                                     CUlibraryOption *libraryOptions, void **libraryOptionValues,
                                     unsigned int numLibraryOptions) {
  CG_DRIVER(cuLibraryLoadData);
  struct loading loading;
  if (!begin(&loading, image_bytes, code)) return CUDA_ERROR_OUT_OF_MEMORY;
  CUresult result = driver->cuLibraryLoadData(library, code, jitOptions, jitOptionsValues, numJitOptions,
                                              libraryOptions, libraryOptionValues, numLibraryOptions);
  return finish(&loading, result, CG_KIND_LIBRARY, result == CUDA_SUCCESS ? *library : NULL);
}

CG_EXPORT CUresult cuLibraryLoadFromFile(CUlibrary *library, const char *fileName, CUjit_option *jitOptions,
                                         void **jitOptionsValues, unsigned int numJitOptions,
                                         CUlibraryOption *libraryOptions, void **libraryOptionValues,
                                         unsigned int numLibraryOptions) {
  CG_DRIVER(cuLibraryLoadFromFile);
  struct loading loading;
  if (!begin(&loading, file_bytes, fileName)) return CUDA_ERROR_OUT_OF_MEMORY;
  CUresult result = driver->cuLibraryLoadFromFile(library, fileName, jitOptions, jitOptionsValues, numJitOptions,
                                                  libraryOptions, libraryOptionValues, numLibraryOptions);
  return finish(&loading, result, CG_KIND_LIBRARY, result == CUDA_SUCCESS ? *library : NULL);
}

CG_EXPORT CUresult cuModuleUnload(CUmodule hmod) {
  CG_DRIVER(cuModuleUnload);
  CG_FREE_BLOCK(CG_KIND_MODULE, hmod, driver->cuModuleUnload(hmod));
}

CG_EXPORT CUresult cuLibraryUnload(CUlibrary library) {
  CG_DRIVER(cuLibraryUnload);
  CG_FREE_BLOCK(CG_KIND_LIBRARY, library, driver->cuLibraryUnload(library));
}
