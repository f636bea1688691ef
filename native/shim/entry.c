/* entry.c - which function answers a name that the program looks up with dlsym or dlvsym, and what it may
 * not open with dlmopen.
 *
 * The stubs in entry_stub.S come here with the caller's arguments and do what the answer says: return
 * a pointer, or jump to the real function with the stack as the caller left it. The jump matters:
 * dlsym reads its return address to know who asks, and RTLD_NEXT would otherwise begin behind us.
 *
 * A name is ours only if it is exactly a hooked one. Then, by handle:
 *   one library      the real answer; ours instead where that is the driver's own export. A library
 *                    that wraps the driver under the same names keeps its own functions.
 *   RTLD_DEFAULT     the real answer: preloaded, we stand before the driver in the global scope, and
 *                    behind a program that defines the name itself. If this library was not preloaded
 *                    but opened, nobody's dlsym comes here, and nothing is claimed.
 *   RTLD_NEXT        ours where the next definition after the caller is the driver's or ours, else
 *                    the real answer.
 * What the loaded driver does not export is not found in us either: programs probe for features.
 *
 * A namespace of the loader's own has its own copy of the driver and of every library that opens it,
 * and nothing preloaded: a tenant's dlmopen into a new one fails. Out of reach, as for any preloaded
 * library: static programs, objects opened with RTLD_DEEPBIND, auditing libraries (LD_AUDIT), and a second
 * copy of the driver, which is named on stderr.
 */
#include <dlfcn.h>
#include <stdatomic.h>
#include <string.h>

#include "core.h"
#include "library.h"
#include "region_slot.h"

typedef void *(*dlsym_function)(void *handle, const char *name);
typedef void *(*dlvsym_function)(void *handle, const char *name, const char *version);

struct real {
  dlsym_function dlsym;
  dlvsym_function dlvsym;
  void *dlmopen;
};

/* What the stub is to do; in two registers on both architectures. */
struct verdict {
  void *answer;
  void *jump; /* null: return the answer */
};

struct verdict cg_entry_dlsym(void *handle, const char *name, const void *caller);
struct verdict cg_entry_dlvsym(void *handle, const char *name, const char *version, const void *caller);
struct verdict cg_entry_dlmopen(Lmid_t space, const char *file, int flags, const void *caller);

struct question {
  void *handle;
  const char *name;
  const char *version; /* null: dlsym */
  const void *caller;
};

/* ---- the real dlsym, dlvsym and dlmopen ---- */

/* In libc.so.6 since glibc 2.34, in libdl.so.2 before. Both versions of a name may exist; the
 * default one is what a program linked today would get. */
static int visit_libc(struct dl_phdr_info *object, size_t size, void *data) {
  (void)size;
  struct cg_elf elf;
  if (!cg_elf_open_loaded(&elf, object) || !elf.soname) return 0;
  if (strcmp(elf.soname, "libc.so.6") != 0 && strcmp(elf.soname, "libdl.so.2") != 0) return 0;
  struct real *real = data;
  real->dlsym = (dlsym_function)cg_elf_function(&elf, "dlsym");
  real->dlvsym = (dlvsym_function)cg_elf_function(&elf, "dlvsym");
  real->dlmopen = cg_elf_function(&elf, "dlmopen");
  return real->dlsym && real->dlvsym;
}

static struct real real(void) {
  static _Atomic(dlsym_function) found_dlsym;
  static _Atomic(dlvsym_function) found_dlvsym;
  struct real real = {
      .dlvsym = atomic_load_explicit(&found_dlvsym, memory_order_acquire),
      .dlsym = atomic_load_explicit(&found_dlsym, memory_order_relaxed),
  };
  if (real.dlvsym) return real;
  if (!dl_iterate_phdr(visit_libc, &real)) {
    cg_say("no dlsym in this process's libc: names cannot be looked up [CGPU-SHIM-DLSYM]");
    return (struct real){0};
  }
  atomic_store_explicit(&found_dlsym, real.dlsym, memory_order_relaxed);
  atomic_store_explicit(&found_dlvsym, real.dlvsym, memory_order_release);
  return real;
}

static void *ask(void *handle, const struct question *question) {
  const struct real libc = real();
  if (!libc.dlsym) return NULL;
  return question->version ? libc.dlvsym(handle, question->name, question->version)
                           : libc.dlsym(handle, question->name);
}

/* ---- whose name it is ---- */

static struct cg_library *library_of(const char *name) {
  if (name[0] == 'c' && name[1] == 'u') return &cg_library_cuda;
  if (strncmp(name, "nvml", 4) == 0) return &cg_library_nvml;
  return NULL;
}

struct next {
  const struct question *question;
  struct cg_elf definer;
  bool behind_caller, found;
};

static bool contains(const struct dl_phdr_info *object, const void *address) {
  for (unsigned i = 0; i < object->dlpi_phnum; i++) {
    const ElfW(Phdr) *part = &object->dlpi_phdr[i];
    if (part->p_type == PT_LOAD && (uintptr_t)address - (object->dlpi_addr + part->p_vaddr) < part->p_memsz)
      return true;
  }
  return false;
}

static int visit_next(struct dl_phdr_info *object, size_t size, void *data) {
  (void)size;
  struct next *next = data;
  if (!next->behind_caller) {
    next->behind_caller = contains(object, next->question->caller);
    return 0;
  }
  next->found = cg_elf_open_loaded(&next->definer, object) && cg_elf_function(&next->definer, next->question->name);
  return next->found;
}

/* Whether the first object loaded after the caller's that defines the name is one of the two. */
static bool next_is(const struct question *question, uintptr_t driver, uintptr_t self) {
  struct next next = {.question = question};
  dl_iterate_phdr(visit_next, &next);
  return next.found && (next.definer.base == driver || next.definer.base == self);
}

struct copy {
  const void *function;
  const char *soname;
  bool found;
};

static int visit_copy(struct dl_phdr_info *object, size_t size, void *data) {
  (void)size;
  struct copy *copy = data;
  struct cg_elf elf;
  if (!contains(object, copy->function)) return 0;
  copy->found = cg_elf_open_loaded(&elf, object) && elf.soname && strcmp(elf.soname, copy->soname) == 0;
  return 1;
}

/* A program may load a second driver by path beside the one that the hooks call. Its handles mean
 * nothing to the other, so it is left alone. */
static void name_second_copy(const struct cg_library *library, const void *function) {
  struct copy copy = {.function = function, .soname = library->soname};
  dl_iterate_phdr(visit_copy, &copy);
  if (copy.found)
    cg_say("this process has loaded two copies of %s: what it does through the second one is not held to its share "
           "[CGPU-SHIM-TWO-COPIES]",
           library->soname);
}

static struct verdict answer(void *pointer) { return (struct verdict){.answer = pointer}; }

static struct verdict decide(const struct question *question) {
  const struct real libc = real();
  const struct verdict jump = {.jump = question->version ? (void *)libc.dlvsym : (void *)libc.dlsym};
  struct cg_library *library = question->name ? library_of(question->name) : NULL;
  struct cg_elf self;
  if (!library || !cg_elf_open_self(&self)) return jump;
  void *ours = cg_elf_function(&self, question->name);
  if (!ours) return jump;

  void *theirs = cg_library_function(library, question->name);
  if (question->handle == RTLD_NEXT)
    return theirs && next_is(question, library->loaded->base, self.base) ? answer(ours) : jump;
  if (question->handle == RTLD_DEFAULT && theirs) return jump;
  /* Asked by us, RTLD_DEFAULT would begin with ourselves (DT_SYMBOLIC); the program's handle is the
   * same scope from its beginning. */
  void *handle = question->handle ? question->handle : dlopen(NULL, RTLD_LAZY);
  void *found = ask(handle, question);
  if (found && found == theirs) return answer(ours);
  if (found && found != ours && theirs) name_second_copy(library, found);
  if (found != ours || theirs) return answer(found);
  /* Through the global scope the program finds us with no driver, or an older one, behind: that does
   * not count, and the search goes on behind us. Asking this very library is another matter. */
  return answer(cg_library_base(handle) == self.base ? found : ask(RTLD_NEXT, question));
}

struct verdict cg_entry_dlsym(void *handle, const char *name, const void *caller) {
  return decide(&(struct question){.handle = handle, .name = name, .caller = caller});
}

struct verdict cg_entry_dlvsym(void *handle, const char *name, const char *version, const void *caller) {
  return decide(&(struct question){.handle = handle, .name = name, .version = version, .caller = caller});
}

/* ---- namespaces of the loader's own ---- */

struct verdict cg_entry_dlmopen(Lmid_t space, const char *file, int flags, const void *caller) {
  (void)file, (void)flags, (void)caller;
  struct real libc = {0};
  if (space != LM_ID_NEWLM || cg_files()->state == CG_REGION_NONE) {
    dl_iterate_phdr(visit_libc, &libc);
    return (struct verdict){.jump = libc.dlmopen};
  }
  cg_say("a library namespace of its own is refused: what it does with the GPU could not be held to the share "
         "[CGPU-SHIM-NAMESPACE]");
  /* Fails, and leaves words for dlerror(). */
  return answer(dlopen("/.cgpu/a library namespace of its own is refused [CGPU-SHIM-NAMESPACE]", RTLD_LAZY));
}
