/* image.c - which program the container starts, by which loader, and whether that loader preloads anything. */
#include "image.h"

#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "agent_http.h"
#include "config_text.h"

#define MAPPED_MAX (64u << 20) /* bytes of a program or loader that are looked at */
#define USUAL_PATH "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

#if defined(__x86_64__)
#define MACHINE EM_X86_64
#define MACHINE_NAME "x86_64"
#define USUAL_LOADER "/lib64/ld-linux-x86-64.so.2"
#elif defined(__aarch64__)
#define MACHINE EM_AARCH64
#define MACHINE_NAME "aarch64"
#define USUAL_LOADER "/lib/ld-linux-aarch64.so.1"
#else
#error "no such architecture"
#endif
#define MUSL_LOADER "/lib/ld-musl-" MACHINE_NAME ".so.1"

struct file {
  const char *bytes;
  size_t length;
};

/* Maps a plain file of the image; null bytes where there is none. */
static struct file map(const char *path) {
  struct file file = {NULL, 0};
  struct stat status;
  int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
  if (fd < 0) return file;
  if (fstat(fd, &status) == 0 && S_ISREG(status.st_mode) && status.st_size > 0) {
    file.length = status.st_size < (off_t)MAPPED_MAX ? (size_t)status.st_size : MAPPED_MAX;
    void *bytes = mmap(NULL, file.length, PROT_READ, MAP_PRIVATE, fd, 0);
    if (bytes != MAP_FAILED) file.bytes = bytes;
  }
  close(fd);
  return file;
}

static bool is_elf(const struct file *file) {
  return file->bytes && file->length >= sizeof(Elf64_Ehdr) && memcmp(file->bytes, ELFMAG, SELFMAG) == 0;
}

/* Whether an ELF file is for this machine; the machine stands at one place in those of 32 and of 64 bits. */
static bool is_ours(const struct file *file) {
  Elf64_Ehdr head;
  memcpy(&head, file->bytes, sizeof head);
  return head.e_ident[EI_CLASS] == ELFCLASS64 && head.e_machine == MACHINE;
}

/* The loader that a program names; "" where it is static. */
static void loader_of(const struct file *file, char *path, size_t size) {
  Elf64_Ehdr head;
  Elf64_Phdr part;
  *path = 0;
  memcpy(&head, file->bytes, sizeof head);
  for (size_t i = 0; i < head.e_phnum && head.e_phentsize == sizeof part; i++) {
    if (head.e_phoff > file->length || file->length - head.e_phoff < (i + 1) * sizeof part) return;
    memcpy(&part, file->bytes + head.e_phoff + i * sizeof part, sizeof part);
    if (part.p_type != PT_INTERP) continue;
    bool whole = part.p_filesz < size && part.p_offset <= file->length && part.p_filesz <= file->length - part.p_offset;
    if (!whole) return;
    memcpy(path, file->bytes + part.p_offset, part.p_filesz);
    path[part.p_filesz] = 0;
    return;
  }
}

/* Whether it is a loader of this machine that looks for a preload file. */
static bool preloads(const char *path) {
  static const char name[] = "/etc/ld.so.preload";
  struct file file = map(path);
  return is_elf(&file) && is_ours(&file) && memmem(file.bytes, file.length, name, sizeof name);
}

/* Where the container's first program is: as execvp(3) finds it. "" where it is nowhere. */
static void find_program(const char *process, char *path, size_t size) {
  char name[PATH_MAX], folders[PATH_MAX], folder[PATH_MAX];
  config_first_text(process, "args", name, sizeof name);
  json_text(process, "cwd", folder, sizeof folder);
  if (*folder != '/' || chdir(folder) != 0) (void)!chdir("/");
  snprintf(path, size, "%s", name);
  if (!*name || strchr(name, '/')) return;
  if (!config_variable(process, "PATH", folders, sizeof folders)) strcpy(folders, USUAL_PATH);
  for (char *next = folders, *at; (at = strsep(&next, ":"));) {
    if (snprintf(path, size, "%s%s%s", at, *at ? "/" : "", name) < (int)size && access(path, X_OK) == 0) return;
  }
  *path = 0;
}

/* A script is run by another program, which stands in its first line. */
static void follow_script(const struct file *file, char *path, size_t size) {
  if (!file->bytes || file->length < 3 || memcmp(file->bytes, "#!", 2) != 0) return;
  char line[PATH_MAX];
  size_t length = file->length - 2 < sizeof line - 1 ? file->length - 2 : sizeof line - 1;
  memcpy(line, file->bytes + 2, length);
  line[length] = 0;
  char *begin = line + strspn(line, " \t");
  begin[strcspn(begin, " \t\r\n")] = 0;
  snprintf(path, size, "%s", begin);
}

/* Within the container's root: "" when the shim can be loaded, else why not. */
static void judge(const char *process, char *why, size_t size) {
  char program[PATH_MAX], loader[PATH_MAX] = "";
  find_program(process, program, sizeof program);
  struct file file = map(program);
  if (!is_elf(&file)) {
    follow_script(&file, program, sizeof program);
    file = map(program);
  }
  *why = 0;
  if (is_elf(&file) && !is_ours(&file)) {
    snprintf(why, size, "its program %s is of another architecture than %s", program, MACHINE_NAME);
    return;
  }
  if (is_elf(&file)) loader_of(&file, loader, sizeof loader);
  if ((*loader && preloads(loader)) || preloads(USUAL_LOADER)) return;
  bool musl = strstr(loader, "ld-musl-") || access(MUSL_LOADER, F_OK) == 0;
  snprintf(why, size, musl ? "its C library is musl, and %s is not there" : "it has no glibc: %s is not there",
           USUAL_LOADER);
}

/* Reads to the end of the pipe, as much as there is room for. */
static void read_all(int fd, char *text, size_t size) {
  size_t length = 0;
  while (length < size - 1) {
    ssize_t got = read(fd, text + length, size - 1 - length);
    if (got < 0 && errno == EINTR) continue;
    if (got <= 0) break;
    length += (size_t)got;
  }
  text[length] = 0;
}

static void judge_in_child(const char *root, const char *config, int fd) {
  char said[PATH_MAX + 256];
  const char *process = config_object(config, "process");
  if (chdir(root) != 0 || chroot(".") != 0)
    snprintf(said, sizeof said, "its root %.4000s cannot be entered: %s", root, strerror(errno));
  else
    judge(process ? process : "{}", said, sizeof said);
  _exit(write(fd, said, strlen(said)) < 0 || *said);
}

bool image_loads_shim(const char *root, const char *config, char *why, size_t size) {
  int ends[2], status = 1;
  pid_t child = pipe2(ends, O_CLOEXEC) == 0 ? fork() : -1;
  if (child == 0) judge_in_child(root, config, ends[1]);
  if (child < 0) return snprintf(why, size, "nobody can look at it: %s", strerror(errno)), false;
  close(ends[1]);
  read_all(ends[0], why, size);
  close(ends[0]);
  while (waitpid(child, &status, 0) < 0 && errno == EINTR) continue;
  if (status && !*why) snprintf(why, size, "looking at it ended with status %d", status);
  return status == 0;
}
