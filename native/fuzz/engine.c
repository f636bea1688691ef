/* engine.c - a fuzzer guided by coverage, for targets written to libFuzzer's interface: GCC has the sanitizers and
 * the instrumentation, but not the fuzzer.
 *
 *   target -seconds=N [-seed=N] [-crashes=FOLDER] [-keep=FOLDER] CORPUS...   fuzz, and print what was done as JSON
 *   target FILE...                                                          run these inputs once
 *
 * Inputs that went a new way are kept, in memory and, if asked for, as files. An input that makes a sanitizer or an
 * abort() speak, or that takes more than three seconds of the CPU, is written into the folder of crashes; the exit
 * status is then not 0.
 */
#include <dirent.h>
#include <sanitizer/common_interface_defs.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

#include "engine.h"

#define TICK_US 500000 /* of CPU time */
#define HANG_TICKS 8   /* without the end of a run: more than three seconds */
#define RECENT 32    /* half of the time one of the inputs kept last is changed */

static struct input {
  uint8_t *bytes;
  size_t size;
} *inputs;
static size_t input_count;

static struct {
  double seconds;
  const char *crashes, *keep;
} options = {0, ".", NULL};

static const uint8_t *running; /* the input that is being run */
static size_t running_size;
static volatile uint64_t runs;

/* ---- files ---- */

static uint64_t digest_of(const uint8_t *bytes, size_t size) { /* FNV-1a */
  uint64_t digest = 0xcbf29ce484222325ull;
  for (size_t i = 0; i < size; i++) digest = (digest ^ bytes[i]) * 0x100000001b3ull;
  return digest;
}

static void write_file(const char *folder, const char *prefix, const uint8_t *bytes, size_t size) {
  char path[4096];
  snprintf(path, sizeof path, "%s/%s%016llx", folder, prefix, (unsigned long long)digest_of(bytes, size));
  FILE *file = fopen(path, "wbe");
  if (!file) return;
  fwrite(bytes, 1, size, file);
  fclose(file);
  if (*prefix) fprintf(stderr, "fuzz: the input is in %s\n", path);
}

static void keep(const uint8_t *bytes, size_t size) {
  struct input *grown = realloc(inputs, (input_count + 1) * sizeof *inputs);
  uint8_t *copy = malloc(size + 1);
  if (!grown || !copy) abort();
  inputs = grown;
  memcpy(copy, bytes, size);
  inputs[input_count++] = (struct input){copy, size};
}

/* ---- one run ---- */

static void at_death(void) {
  if (running) write_file(options.crashes, "crash-", running, running_size);
}

static void at_tick(int signal) {
  static uint64_t last = UINT64_MAX;
  static unsigned ticks;
  (void)signal;
  ticks = runs == last ? ticks + 1 : 0;
  last = runs;
  if (!running || ticks < HANG_TICKS) return;
  fprintf(stderr, "fuzz: the input takes more than three seconds\n");
  write_file(options.crashes, "hang-", running, running_size);
  _exit(70);
}

/* In a block of its own size, so that a sanitizer sees the first byte behind it. */
static void run(const uint8_t *bytes, size_t size) {
  uint8_t *copy = malloc(size ? size : 1);
  if (!copy) abort();
  memcpy(copy, bytes, size);
  running = bytes;
  running_size = size;
  coverage_begin();
  LLVMFuzzerTestOneInput(copy, size);
  running = NULL;
  runs = runs + 1;
  free(copy);
}

static bool run_file(const char *path) {
  static uint8_t bytes[INPUT_MAX];
  FILE *file = fopen(path, "rbe");
  if (!file) return false;
  size_t size = fread(bytes, 1, sizeof bytes, file);
  fclose(file);
  run(bytes, size);
  coverage_new();
  keep(bytes, size);
  return true;
}

static bool run_folder(const char *folder) {
  struct dirent **names;
  int count = scandir(folder, &names, NULL, alphasort); /* the same order everywhere */
  for (int i = 0; i < count; i++) {
    char path[4096];
    struct stat status;
    snprintf(path, sizeof path, "%s/%s", folder, names[i]->d_name);
    if (stat(path, &status) == 0 && S_ISREG(status.st_mode)) run_file(path);
    free(names[i]);
  }
  if (count >= 0) free(names);
  return count >= 0;
}

/* ---- the loop ---- */

static const struct input *choose(void) {
  size_t recent = input_count < RECENT ? input_count : RECENT;
  uint64_t random = fuzz_random() >> 8;
  return random & 1 ? &inputs[input_count - 1 - (random >> 1) % recent] : &inputs[(random >> 1) % input_count];
}

static double now_s(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return (double)now.tv_sec + (double)now.tv_nsec / 1e9;
}

static void fuzz(void) {
  static uint8_t input[INPUT_MAX];
  double begun = now_s(), ended = begun;
  if (!input_count) keep((const uint8_t *)"", 0);
  while ((ended = now_s()) - begun < options.seconds) {
    for (int i = 0; i < 64; i++) {
      const struct input *parent = choose(), *other = choose();
      memcpy(input, parent->bytes, parent->size);
      size_t size = fuzz_mutate(input, parent->size, other->bytes, other->size);
      run(input, size);
      if (!coverage_new()) continue;
      keep(input, size);
      if (options.keep) write_file(options.keep, "", input, size);
    }
  }
  printf("{\"seconds\": %.1f, \"runs\": %llu, \"edges\": %u, \"inputs\": %zu}\n", ended - begun,
         (unsigned long long)runs, coverage_edges(), input_count);
}

static bool option(const char *word) {
  if (strncmp(word, "-seconds=", 9) == 0) options.seconds = atof(word + 9);
  else if (strncmp(word, "-seed=", 6) == 0) fuzz_seed(strtoull(word + 6, NULL, 10));
  else if (strncmp(word, "-crashes=", 9) == 0) options.crashes = word + 9;
  else if (strncmp(word, "-keep=", 6) == 0) options.keep = word + 6;
  else return false;
  return true;
}

int main(int argc, char *argv[]) {
  struct sigaction action = {.sa_handler = at_tick, .sa_flags = SA_RESTART};
  struct itimerval tick = {{0, TICK_US}, {0, TICK_US}};
  setvbuf(stdout, NULL, _IOLBF, 0);
  __sanitizer_set_death_callback(at_death);
  sigaction(SIGPROF, &action, NULL);
  setitimer(ITIMER_PROF, &tick, NULL);
  for (int i = 1; i < argc; i++) {
    if (option(argv[i]) || run_folder(argv[i]) || run_file(argv[i])) continue;
    fprintf(stderr, "fuzz: %s is no file, folder or option\n", argv[i]);
    return 2;
  }
  if (options.seconds > 0) fuzz();
  return 0;
}
