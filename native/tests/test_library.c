// Finding a library that the process loads while many threads look for it.
// sources: shim/library.c shim/entry_elf.c
#include <dlfcn.h>
#include <errno.h>
#include <pthread.h>
#include <stdio.h>

#include "../shim/library.h"

/* A library of glibc's that nothing here is linked with, and a function of it. */
#define SONAME "libresolv.so.2"
#define FUNCTION "ns_datetosecs"
enum { THREADS = 8 };

static struct cg_library library = {.soname = SONAME};
static pthread_barrier_t start;
static atomic_uint failures;

#define CHECK(condition)                                                          \
  do {                                                                            \
    if (!(condition)) {                                                           \
      printf("%s:%d: not true: %s\n", __FILE__, __LINE__, #condition);            \
      failures++;                                                                 \
    }                                                                             \
  } while (0)

/* Every other thread loads the library; all of them look until they see it. */
static void *run(void *number) {
  pthread_barrier_wait(&start);
  void *handle = (long)number % 2 ? dlopen(SONAME, RTLD_LAZY) : NULL;
  const struct cg_elf *found;
  errno = 77;
  while (!(found = cg_library_elf(&library))) continue;
  CHECK(errno == 77);
  CHECK(cg_library_function(&library, FUNCTION) == cg_elf_function(found, FUNCTION));
  if (handle) {
    CHECK(cg_library_function(&library, FUNCTION) == dlsym(handle, FUNCTION));
    CHECK(dlclose(handle) == 0);
  }
  return (void *)found;
}

int main(void) {
  CHECK(!cg_library_elf(&library)); /* never loads it */
  CHECK(!dlopen(SONAME, RTLD_LAZY | RTLD_NOLOAD));
  CHECK(!cg_library_function(&library, FUNCTION));

  pthread_t thread[THREADS];
  pthread_barrier_init(&start, NULL, THREADS);
  for (long i = 0; i < THREADS; i++) pthread_create(&thread[i], NULL, run, (void *)i);
  for (int i = 0; i < THREADS; i++) {
    void *found;
    pthread_join(thread[i], &found);
    CHECK(found == cg_library_elf(&library));
  }

  /* All that loaded it have closed it; what was handed out stays valid. */
  void *handle = dlopen(SONAME, RTLD_LAZY | RTLD_NOLOAD);
  CHECK(handle);
  CHECK(cg_library_function(&library, FUNCTION));
  CHECK(!cg_library_function(&library, "no such function"));
  if (handle) dlclose(handle);
  pthread_barrier_destroy(&start);
  return failures != 0;
}
