/* card_profile.c - reads a profile: the constants of a simulated machine.
 *
 * A profile is a file of lines `key = value`, a subset of TOML: a value is a string in double quotes
 * without escapes, or a whole number with underscores where they help; `#` begins a comment line. An
 * unknown or missing key, a repeated one or a bad value is an error that names file and line.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "card_internal.h"

enum kind { TEXT, U32, U64, INT };
struct key { const char *name; enum kind kind; size_t offset, bytes; uint64_t least, most; };
#define CARD(field, kind, least, most) \
  {#field, kind, offsetof(struct sg_profile, card.field), sizeof(((struct sg_profile *)0)->card.field), least, most}
#define MACHINE(field, kind, least, most) \
  {#field, kind, offsetof(struct sg_profile, machine.field), sizeof(((struct sg_profile *)0)->machine.field), least, most}

static const struct key keys[] = {
    CARD(name, TEXT, 1, 0), MACHINE(driver_version, TEXT, 1, 0), MACHINE(cards, INT, 1, SG_MAX_CARDS),
    CARD(total_bytes, U64, SG_GRANULE_BYTES, 1ull << 42), CARD(reserved_bytes, U64, 0, 1ull << 40),
    CARD(context_bytes, U64, 0, 1ull << 36), CARD(sm_count, U32, 1, 4096), CARD(cc_major, U32, 1, 99),
    CARD(cc_minor, U32, 0, 9), CARD(max_threads_per_sm, U32, 32, 1u << 16), CARD(clock_khz, U32, 1, UINT32_MAX),
    CARD(memory_clock_khz, U32, 1, UINT32_MAX), CARD(bus_width_bits, U32, 1, 1u << 16),
    CARD(l2_bytes, U32, 0, UINT32_MAX), CARD(power_limit_mw, U32, 1, UINT32_MAX), CARD(pci_bus, U32, 0, 0xf0),
    CARD(pci_device, U32, 0, 31), CARD(pci_domain, U32, 0, UINT32_MAX), CARD(pci_device_id, U32, 0, UINT32_MAX),
    CARD(memory_bytes_per_s, U64, 1, UINT64_MAX), CARD(pcie_bytes_per_s, U64, 1, UINT64_MAX),
    CARD(timeslice_ns, U64, 1000, 1ull << 40), CARD(context_switch_ns, U64, 0, 1ull << 30),
    CARD(launch_floor_ns, U64, 0, 1ull << 40), CARD(block_ns, U64, 1, 1ull << 40),
};
#define KEYS (sizeof keys / sizeof keys[0])

/* The CUDA version of a driver branch: NVIDIA, CUDA Toolkit Release Notes, "CUDA Toolkit and
 * Corresponding Driver Versions". */
static const struct { int branch, cuda; } cuda_of_branch[] = {
    {460, 11020}, {465, 11030}, {470, 11040}, {495, 11050}, {510, 11060}, {515, 11070}, {520, 11080},
    {525, 12000}, {530, 12010}, {535, 12020}, {545, 12030}, {550, 12040}, {555, 12050}, {560, 12060},
    {565, 12070}, {570, 12080}, {575, 12090}, {580, 13000}, {590, 13010}, {595, 13020}, {610, 13030},
    {615, 13040}, {620, 13050},
};

static int cuda_version(const char *driver) {
  char *end;
  long branch = strtol(driver, &end, 10);
  int cuda = 0;
  if (*end != '.' || branch > 629) return 0;
  for (size_t i = 0; i < sizeof cuda_of_branch / sizeof cuda_of_branch[0]; i++)
    if (branch >= cuda_of_branch[i].branch) cuda = cuda_of_branch[i].cuda;
  return cuda;
}

static char *trim(char *text) {
  text += strspn(text, " \t");
  size_t length = strlen(text);
  while (length && strchr(" \t\r\n", text[length - 1])) text[--length] = 0;
  return text;
}

static bool set_text(const struct key *key, char *value, void *field) {
  size_t length = strlen(value);
  if (length < 3 || value[0] != '"' || value[length - 1] != '"' || strpbrk(value, "\\") || length - 1 > key->bytes)
    return false;
  value[length - 1] = 0;
  if (strchr(value + 1, '"')) return false;
  memset(field, 0, key->bytes);
  memcpy(field, value + 1, length - 2);
  return true;
}

static bool set_number(const struct key *key, const char *value, void *field) {
  char digits[32];
  size_t length = 0;
  for (const char *c = value; *c; c++) {
    if (*c == '_' && c > value && c[1] && c[-1] != '_' && c[1] != '_') continue;
    if (*c < '0' || *c > '9' || length + 1 >= sizeof digits) return false;
    digits[length++] = *c;
  }
  digits[length] = 0;
  if (length == 0 || (digits[0] == '0' && length > 1)) return false; /* as TOML has it */
  errno = 0;
  uint64_t number = strtoull(digits, NULL, 10);
  if (errno || number < key->least || number > key->most) return false;
  if (key->kind == U64) *(uint64_t *)field = number;
  else *(uint32_t *)field = (uint32_t)number;
  return true;
}

/* One line; null, or what is wrong with it. */
static const char *read_line(char *line, struct sg_profile *profile, bool seen[KEYS]) {
  char *name = trim(line);
  if (*name == 0 || *name == '#') return NULL;
  char *equals = strchr(name, '=');
  if (!equals) return "`key = value` is wanted";
  *equals = 0;
  char *value = trim(equals + 1);
  name = trim(name);
  for (size_t i = 0; i < KEYS; i++) {
    if (strcmp(keys[i].name, name) != 0) continue;
    void *field = (char *)profile + keys[i].offset;
    if (seen[i]) return "the key is repeated";
    seen[i] = true;
    if (keys[i].kind == TEXT) return set_text(&keys[i], value, field) ? NULL : "a string in quotes is wanted";
    return set_number(&keys[i], value, field) ? NULL : "the number is bad or out of range";
  }
  return "unknown key";
}

static bool read_lines(FILE *file, const char *path, struct sg_profile *profile, char *error, size_t bytes) {
  bool seen[KEYS] = {false};
  char line[512];
  for (int number = 1; fgets(line, sizeof line, file); number++) {
    const char *cause = read_line(line, profile, seen);
    if (!cause) continue;
    snprintf(error, bytes, "%s:%d: %s", path, number, cause);
    return false;
  }
  for (size_t i = 0; i < KEYS; i++) {
    if (seen[i]) continue;
    snprintf(error, bytes, "%s: the key %s is missing", path, keys[i].name);
    return false;
  }
  if (profile->card.total_bytes < profile->card.reserved_bytes + SG_GRANULE_BYTES) {
    snprintf(error, bytes, "%s: reserved_bytes leaves nothing of total_bytes", path);
    return false;
  }
  return true;
}

bool sg_profile_read(const char *path, const char *driver, int cards, struct sg_profile *profile, char *error,
                     size_t error_bytes) {
  memset(profile, 0, sizeof *profile);
  FILE *file = fopen(path, "re");
  if (!file) {
    snprintf(error, error_bytes, "%s: %s", path, strerror(errno));
    return false;
  }
  bool good = read_lines(file, path, profile, error, error_bytes);
  fclose(file);
  if (!good) return false;
  struct sg_machine_info *machine = &profile->machine;
  if (cards) machine->cards = cards;
  if (driver && *driver) snprintf(machine->driver_version, sizeof machine->driver_version, "%s", driver);
  machine->cuda_version = cuda_version(machine->driver_version);
  bool cards_good = machine->cards >= 1 && machine->cards <= SG_MAX_CARDS;
  if (!cards_good)
    snprintf(error, error_bytes, "%d cards: a number from 1 to %d is wanted", machine->cards, SG_MAX_CARDS);
  else if (!machine->cuda_version)
    snprintf(error, error_bytes, "driver version %s: one from 460.x to 62x.x is wanted", machine->driver_version);
  return cards_good && machine->cuda_version;
}
