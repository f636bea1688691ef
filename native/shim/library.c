/* library.c - finding libcuda and libnvidia-ml among the loaded objects. No lock is held, since the
 * loader runs constructors under its own lock and those may call us: threads that get here at once
 * each search, and the first to publish wins. */
#include "library.h"

#include <dlfcn.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

struct cg_library cg_library_cuda = {.soname = "libcuda.so.1"};
struct cg_library cg_library_nvml = {.soname = "libnvidia-ml.so.1"};

struct search {
  struct cg_library *library;
  struct cg_elf elf;
  char *path; /* as the loader knows it; null: not among the loaded objects */
  unsigned long long added;
};

static int visit(struct dl_phdr_info *object, size_t size, void *data) {
  (void)size;
  struct search *search = data;
  search->added = object->dlpi_adds;
  if (atomic_load_explicit(&search->library->searched, memory_order_relaxed) == search->added)
    return 1; /* nothing was loaded since the last search */
  if (!object->dlpi_name || !object->dlpi_name[0] || !cg_elf_open_loaded(&search->elf, object)) return 0;
  if (!search->elf.soname || strcmp(search->elf.soname, search->library->soname) != 0) return 0;
  search->path = strdup(object->dlpi_name);
  return 1;
}

/* A handle of glibc's is the object's link map. The loader writes it under its own lock, which a thread
 * sanitizer does not see. */
__attribute__((no_sanitize("thread"))) uintptr_t cg_library_base(void *handle) {
  return ((struct link_map *)handle)->l_addr;
}

/* Takes a reference on the object, waiting for another thread's dlopen of it to be complete. */
static bool keep(const struct search *search) {
  void *handle = dlopen(search->path, RTLD_LAZY | RTLD_NOLOAD);
  if (!handle) return false;
  if (cg_library_base(handle) == search->elf.base) return true;
  dlclose(handle);
  return false;
}

static const struct cg_elf *find(struct cg_library *library) {
  struct search search = {.library = library};
  dl_iterate_phdr(visit, &search);
  if (!search.path) {
    atomic_store_explicit(&library->searched, search.added, memory_order_relaxed);
    return NULL;
  }
  struct cg_elf *found = keep(&search) ? malloc(sizeof *found) : NULL;
  free(search.path);
  if (!found) return NULL;
  *found = search.elf;
  const struct cg_elf *winner = NULL;
  if (atomic_compare_exchange_strong(&library->loaded, &winner, found)) return found;
  free(found);
  return winner;
}

const struct cg_elf *cg_library_elf(struct cg_library *library) {
  const struct cg_elf *loaded = atomic_load_explicit(&library->loaded, memory_order_acquire);
  if (loaded) return loaded;
  int saved = errno;
  loaded = find(library);
  errno = saved;
  return loaded;
}

void *cg_library_function(struct cg_library *library, const char *name) {
  const struct cg_elf *elf = cg_library_elf(library);
  return elf ? cg_elf_function(elf, name) : NULL;
}
