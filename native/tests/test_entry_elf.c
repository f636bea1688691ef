// Symbol tables of loaded objects, read against what the real dlsym says.
// sources: shim/entry_elf.c
#include <dlfcn.h>
#include <stdio.h>
#include <string.h>

#include "../shim/entry_elf.h"

static int failures;

#define CHECK(condition, ...)                                       \
  do {                                                              \
    if (!(condition)) {                                             \
      printf("%s:%d: %s: ", __FILE__, __LINE__, #condition);        \
      printf(__VA_ARGS__);                                          \
      putchar('\n');                                                \
      failures++;                                                   \
    }                                                               \
  } while (0)

static int find_soname(struct dl_phdr_info *object, size_t size, void *data) {
  (void)size;
  struct cg_elf *elf = data, candidate;
  const char *wanted = elf->soname;
  if (!cg_elf_open_loaded(&candidate, object) || !candidate.soname || strcmp(candidate.soname, wanted) != 0) return 0;
  *elf = candidate;
  return 1;
}

static int open_any(struct dl_phdr_info *object, size_t size, void *data) {
  (void)size;
  struct cg_elf elf;
  *(unsigned *)data += cg_elf_open_loaded(&elf, object) && elf.base == object->dlpi_addr;
  return 0;
}

/* Names that the machine's libc defines, functions that no sanitizer replaces and that are no ifuncs. */
static void same_as_dlsym(const struct cg_elf *libc, const char *table) {
  static const char *const names[] = {"getenv", "qsort", "abs", "labs", "bsearch", "dl_iterate_phdr", "mkdtemp"};
  void *handle = dlopen(libc->soname, RTLD_LAZY | RTLD_NOLOAD);
  for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
    void *ours = cg_elf_function(libc, names[i]), *real = dlsym(handle, names[i]);
    CHECK(ours && ours == real, "%s by %s: %p, dlsym says %p", names[i], table, ours, real);
  }
  static const char *const absent[] = {"", "geten", "getenvx", "cuInit", "no such function", "environ" /* data */};
  for (size_t i = 0; i < sizeof absent / sizeof *absent; i++)
    CHECK(!cg_elf_function(libc, absent[i]), "\"%s\" was found by %s", absent[i], table);
  dlclose(handle);
}

static void default_version_wins(const struct cg_elf *libc) {
  /* Old and new version of one name, at different addresses, in every x86-64 glibc since 2.14. */
  void *handle = dlopen(libc->soname, RTLD_LAZY | RTLD_NOLOAD);
  void *old = dlvsym(handle, "pthread_cond_signal", "GLIBC_2.2.5"), *new = dlsym(handle, "pthread_cond_signal");
  if (old && new && old != new)
    CHECK(cg_elf_function(libc, "pthread_cond_signal") != old, "the superseded version was found");
  dlclose(handle);
}

int main(void) {
  struct cg_elf libc = {.soname = "libc.so.6"};
  CHECK(dl_iterate_phdr(find_soname, &libc), "no libc.so.6 among the loaded objects");
  if (failures) return 1;
  same_as_dlsym(&libc, "DT_GNU_HASH");
  default_version_wins(&libc);
  if (libc.sysv_hash) { /* distributions differ in whether their libc has the old table too */
    struct cg_elf old = libc;
    old.gnu_hash = NULL;
    same_as_dlsym(&old, "DT_HASH");
  }
  unsigned objects = 0;
  dl_iterate_phdr(open_any, &objects);
  CHECK(objects >= 3, "only %u loaded objects could be read", objects);

  struct cg_elf self;
  CHECK(cg_elf_open_self(&self), "this program's own table");
  CHECK(!cg_elf_function(&self, "getenv"), "an import passed for a definition");
  return failures != 0;
}
