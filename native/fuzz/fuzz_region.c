// sources: tests/support/no_driver.c shim/account.c shim/region_slot.c
// sources: programs/inside_region.c programs/inside_text.c arbiter/seat.c
/* A region with damage anywhere, read by all that read it in C: the shim, which maps it; the tenant's own `cgpu`,
 * which prints it; and the arbiter. What is printed is lines of UTF-8 without control characters.
 *
 * An input is a row of patches: 4 bytes say where (from bit 31 on: in usage; bit 30: cut the file off there),
 * then one byte the length, then the bytes. */
#include "../shim/region.c" // NOLINT: map_file is private to it
#include "../tests/support/make_region.h"
#include "inside_text.h"
#include "reading.h"
#include "seat.h"

#define PATCHES_MAX 32
#define PATCH_MAX 128

int say(const char *format, ...) { return !!format; } /* to nobody */
void cg_say_once(bool *said, const char *format, ...) { *said = format; }

static struct made_region made;
static int files[2];
static const size_t sizes[2] = {sizeof(struct cgpu_grants), sizeof(struct cgpu_usage)};
static char *pristine[2];

static void begin(void) {
  made = make_region(2, 1ull << 30);
  strcpy(made.grants->header.tenant_id, "t1");
  strcpy(made.grants->header.tenant_name, "training");
  made.usage->header.slots_seen = 2;
  made.usage->slot[0].header = (struct cgpu_usage_slot_header){.state = CGPU_SLOT_LIVE, .pid = 41, .comm = "python"};
  setenv("CGPU_REGION", made.folder, 1);
  for (int i = 0; i < 2; i++) {
    char path[300];
    snprintf(path, sizeof path, "%s/%s", made.folder, i ? "usage" : "grants");
    files[i] = open(path, O_RDWR | O_CLOEXEC);
    pristine[i] = malloc(sizes[i]);
    if (files[i] < 0 || !pristine[i] || pread(files[i], pristine[i], sizes[i], 0) != (ssize_t)sizes[i]) abort();
  }
}

static size_t place_of(uint32_t word) { return (word & 0x3fffffff) % sizes[word >> 31]; }

static void write_all(int file, const void *bytes, size_t size, size_t offset) {
  if (pwrite(file, bytes, size, (off_t)offset) != (ssize_t)size) abort();
}

static void patch(struct reading *input, uint32_t word, size_t length) {
  char bytes[PATCH_MAX];
  size_t offset = place_of(word), room = sizes[word >> 31] - offset;
  for (size_t i = 0; i < length; i++) bytes[i] = (char)take(input, 1);
  if (word >> 30 & 1) {
    if (ftruncate(files[word >> 31], (off_t)offset)) abort();
  } else {
    write_all(files[word >> 31], bytes, length < room ? length : room, offset);
  }
}

static void restore(int which, size_t offset, size_t length) {
  size_t room = sizes[which] - offset;
  write_all(files[which], pristine[which] + offset, length < room ? length : room, offset);
}

/* All patches, in order: made, or, where it was, undone. */
static void go_through(struct reading input, bool undo) {
  bool cut[2] = {false, false};
  for (int i = 0; i < PATCHES_MAX && input.at < input.end; i++) {
    uint32_t word = (uint32_t)take(&input, 4);
    size_t length = (size_t)take(&input, 1) % (PATCH_MAX + 1);
    cut[word >> 31] |= word >> 30 & 1;
    if (!undo) {
      patch(&input, word, length);
      continue;
    }
    for (size_t k = 0; k < length; k++) take(&input, 1);
    if (!cut[word >> 31]) restore((int)(word >> 31), place_of(word), length);
  }
  for (int i = 0; undo && i < 2; i++)
    if (cut[i]) restore(i, 0, sizes[i]);
}

/* ---- the readers ---- */

static bool is_text(const unsigned char *at, size_t size) {
  for (const unsigned char *end = at + size; at < end;) {
    if (*at < 0x80) {
      if ((*at < 0x20 && *at != '\n') || *at == 0x7f) return false;
      at++;
      continue;
    }
    size_t more = *at >= 0xf0 ? 3 : *at >= 0xe0 ? 2 : 1;
    if (*at < 0xc2 || *at > 0xf4 || (size_t)(end - at) <= more) return false;
    for (size_t i = 1; i <= more; i++)
      if ((at[i] & 0xc0) != 0x80) return false;
    at += more + 1;
  }
  return true;
}

static void print(const struct inside *inside, void (*form)(const struct inside *), bool json) {
  char *text = NULL;
  size_t size = 0;
  FILE *terminal = stdout, *memory = open_memstream(&text, &size);
  if (!memory) abort();
  stdout = memory;
  form(inside);
  stdout = terminal;
  fclose(memory);
  if (json) /* a DEL is allowed there */
    for (size_t i = 0; i < size; i++)
      if (text[i] == 0x7f) text[i] = ' ';
  HOLDS(is_text((const unsigned char *)text, size));
  free(text);
}

static void read_inside(void) {
  static struct inside inside;
  memset(inside.alive, 0, sizeof inside.alive);
  if (!inside_read(&inside)) return;
  inside.alive[0] = inside.usage.slot[0].header.state; /* as if their owners lived */
  inside.alive[CGPU_MAX_SLOTS - 1] = inside.usage.slot[CGPU_MAX_SLOTS - 1].header.state;
  print(&inside, print_smi_json, true);
  print(&inside, print_smi_text, false);
  print(&inside, print_info_json, true);
  print(&inside, print_info_text, false);
}

static void read_seat(void) {
  struct cgpu_seat seat;
  for (uint32_t row = 0; row < CGPU_MAX_GPUS; row += 15) {
    if (cgpu_seat_open(&seat, 7, files[1], files[0], row) != 0) continue;
    cgpu_seat_watch(&seat, files[1]); /* whoever holds a lock there */
    cgpu_seat_read(&seat, true);
    cgpu_seat_rung(&seat);
    cgpu_seat_close(&seat);
  }
}

static void read_shim(void) {
  const int flags[] = {O_RDONLY, O_RDWR}, protection[] = {PROT_READ, PROT_READ | PROT_WRITE};
  const uint64_t magics[] = {CGPU_GRANTS_MAGIC, CGPU_USAGE_MAGIC};
  for (int i = 0; i < 2; i++) {
    void *mapped = map_file(made.folder, i ? "usage" : "grants", magics[i], sizes[i], flags[i], protection[i]);
    if (!mapped) continue;
    const struct cgpu_grants_header *header = mapped;
    HOLDS(header->magic == magics[i] && header->major == CGPU_REGION_MAJOR);
    HOLDS(memchr((const char *)mapped + sizes[i] - 1, 0, 1) || true); /* its last byte can be read */
    if (!i) gpu_of_uuid(mapped, &(const CUuuid){{1}});
    munmap(mapped, sizes[i]);
  }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  const struct reading input = {data, data + size};
  if (!pristine[1]) begin();
  go_through(input, false);
  read_shim();
  read_seat();
  read_inside();
  go_through(input, true);
  return 0;
}
