/* inside_text.c - printing. Text of the region may be any bytes: what goes out is UTF-8. */
#include "inside_text.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#define POLICY_NATIVE 5u
#define MEBIBYTE (1u << 20)

static const char *const policies[] = {"fair", "preemptive", "weighted", "fixed", "soft", "native"};
static const char *const layers[] = {"shim", "driver", "broker"};

#define NAME(names, number) ((number) < sizeof(names) / sizeof *(names) ? (names)[number] : "unknown")

/* ---- text ---- */

/* Bytes of the character at `text`; `good`: it is one, else they are the start of none. */
static size_t character(const unsigned char *text, size_t room, int *good) {
  unsigned char first = text[0];
  *good = first < 0x80;
  if (first < 0xC2 || first > 0xF4) return 1;
  size_t length = first < 0xE0 ? 2 : first < 0xF0 ? 3 : 4;
  unsigned char least = first == 0xE0 ? 0xA0 : first == 0xF0 ? 0x90 : 0x80;
  unsigned char most = first == 0xED ? 0x9F : first == 0xF4 ? 0x8F : 0xBF;
  for (size_t i = 1; i < length; i++, least = 0x80, most = 0xBF)
    if (i >= room || text[i] < least || text[i] > most) return i;
  *good = 1;
  return length;
}

/* Writes text of at most `room` bytes, and gives its width in characters. Within JSON it is escaped;
 * for people, a control character is a question mark: it would speak to their terminal. */
static int put(const char *text, size_t room, int json) {
  const unsigned char *at = (const unsigned char *)text;
  size_t length = strnlen(text, room);
  int width = 0;
  for (size_t i = 0, step; i < length; i += step, width++) {
    int good;
    step = character(at + i, length - i, &good);
    int control = at[i] < 0x20 || at[i] == 0x7F;
    if (!good) fputs("\xEF\xBF\xBD", stdout);
    else if (control && !json) putchar('?');
    else if (control) printf("\\u%04x", at[i]);
    else if (json && strchr("\"\\", at[i])) printf("\\%c", at[i]);
    else fwrite(at + i, 1, step, stdout);
  }
  return width;
}

#define PUT_JSON(array) (putchar('"'), put(array, sizeof(array), 1), putchar('"'))
#define PUT_TEXT(array) put(array, sizeof(array), 0)

static void put_uuid(const uint8_t uuid[16]) {
  fputs("GPU-", stdout);
  for (int i = 0; i < 16; i++) printf("%s%02x", i == 4 || i == 6 || i == 8 || i == 10 ? "-" : "", uuid[i]);
}

/* ---- one GPU of the tenant ---- */

static bool enforced(const struct cgpu_grants_gpu *gpu) { return gpu->policy == 3 || gpu->policy == 4; }

static const char *compute_layer(const struct cgpu_grants_gpu *gpu) {
  return gpu->policy == POLICY_NATIVE ? "none" : "slots";
}

static bool present(const struct inside *inside, unsigned row) {
  return row < inside->grants.header.gpu_count && inside->grants.gpu[row].flags & CGPU_GPU_PRESENT;
}

static uint64_t used(const struct inside *inside, unsigned row) {
  return inside_account(inside, row) + inside->grants.gpu[row].overhead_bytes;
}

static void put_processes_json(const struct inside *inside, unsigned row) {
  const char *separator = "";
  printf("\"processes\": [");
  for (unsigned slot = 0; slot < CGPU_MAX_SLOTS; slot++) {
    if (!inside->alive[slot]) continue;
    const struct cgpu_usage_slot_header *header = &inside->usage.slot[slot].header;
    printf("%s\n        {\"pid\": %" PRIu32 ", \"command\": ", separator, header->pid);
    PUT_JSON(header->comm);
    printf(", \"memory_bytes\": %" PRIu64 "}", inside_charge(inside, slot, row));
    separator = ",";
  }
  printf("%s]", *separator ? "\n      " : "");
}

static void put_share_json(const struct inside *inside, unsigned row) {
  const struct cgpu_grants_gpu *gpu = &inside->grants.gpu[row];
  printf("    {\n      \"gpu_uuid\": \"");
  put_uuid(gpu->uuid);
  printf("\",\n      \"memory_bytes\": %" PRIu64 ",\n      \"used_bytes\": %" PRIu64 ",\n", gpu->quota_bytes,
         used(inside, row));
  printf("      \"memory_layer\": \"%s\",\n      \"compute_layer\": \"%s\",\n", NAME(layers, gpu->memory_layer),
         compute_layer(gpu));
  if (gpu->compute_percent) printf("      \"compute_percent\": %" PRIu32 ",\n", gpu->compute_percent);
  else printf("      \"compute_percent\": null,\n");
  printf("      \"compute_enforced\": %s,\n      \"weight\": %" PRIu32 ",\n      \"policy\": %" PRIu32 ",\n",
         enforced(gpu) ? "true" : "false", gpu->weight, gpu->policy);
  printf("      \"utilisation_percent\": %" PRIu32 ",\n      \"busy_ns\": %" PRIu64 ",\n", gpu->utilisation_percent,
         gpu->busy_ns);
  printf("      \"oom_count\": %" PRIu64 ",\n      ", (uint64_t)inside->usage.gpu[row].oom_count);
  put_processes_json(inside, row);
  printf("\n    }");
}

void print_smi_json(const struct inside *inside) {
  const char *separator = "";
  printf("{\n  \"id\": ");
  PUT_JSON(inside->grants.header.tenant_id);
  printf(",\n  \"name\": ");
  PUT_JSON(inside->grants.header.tenant_name);
  printf(",\n  \"simulated\": %s,\n  \"shares\": [", inside->simulated ? "true" : "false");
  for (unsigned row = 0; row < CGPU_MAX_GPUS; row++) {
    if (!present(inside, row)) continue;
    printf("%s\n", separator);
    put_share_json(inside, row);
    separator = ",";
  }
  printf("%s]\n}\n", *separator ? "\n  " : "");
}

/* ---- for people ---- */

static void put_processes(const struct inside *inside, unsigned row) {
  bool headed = false;
  for (unsigned slot = 0; slot < CGPU_MAX_SLOTS; slot++) {
    if (!inside->alive[slot]) continue;
    if (!headed) printf("  %-10s  %-16s  MEMORY\n", "PID", "COMMAND");
    headed = true;
    const struct cgpu_usage_slot_header *header = &inside->usage.slot[slot].header;
    printf("  %-10" PRIu32 "  ", header->pid);
    int width = PUT_TEXT(header->comm);
    printf("%*s  %" PRIu64 "MiB\n", width < 16 ? 16 - width : 0, "", inside_charge(inside, slot, row) / MEBIBYTE);
  }
}

static void put_share(const struct inside *inside, unsigned row, unsigned number) {
  const struct cgpu_grants_gpu *gpu = &inside->grants.gpu[row];
  printf("tenant ");
  PUT_TEXT(inside->grants.header.tenant_name);
  printf(", GPU %u (", number);
  put_uuid(gpu->uuid);
  printf(")%s\n  memory %" PRIu64 "MiB / %" PRIu64 "MiB; utilisation %" PRIu32 "%%; policy %" PRIu32 " %s; compute ",
         inside->simulated ? " [simulated]" : "", used(inside, row) / MEBIBYTE, gpu->quota_bytes / MEBIBYTE,
         gpu->utilisation_percent, gpu->policy, NAME(policies, gpu->policy));
  if (!gpu->compute_percent) printf("-");
  else printf("%" PRIu32 "%%%s", gpu->compute_percent, enforced(gpu) ? "" : " (recorded, not enforced)");
  printf("; weight %" PRIu32 "; layer %s/%s\n", gpu->weight, NAME(layers, gpu->memory_layer), compute_layer(gpu));
  put_processes(inside, row);
}

void print_smi_text(const struct inside *inside) {
  unsigned number = 0;
  for (unsigned row = 0; row < CGPU_MAX_GPUS; row++)
    if (present(inside, row)) put_share(inside, row, number++);
}

void print_info_json(const struct inside *inside) {
  printf("{\n  \"version\": \"%s\",\n  \"simulated\": %s,\n  \"id\": ", CGPU_VERSION,
         inside->simulated ? "true" : "false");
  PUT_JSON(inside->grants.header.tenant_id);
  printf(",\n  \"name\": ");
  PUT_JSON(inside->grants.header.tenant_name);
  printf("\n}\n");
}

void print_info_text(const struct inside *inside) {
  printf("cgpu %s%s\ntenant ", CGPU_VERSION, inside->simulated ? " [simulated]" : "");
  PUT_TEXT(inside->grants.header.tenant_name);
  printf(" (");
  PUT_TEXT(inside->grants.header.tenant_id);
  printf("), %" PRIu32 " GPU%s\n", inside->grants.header.gpu_count, inside->grants.header.gpu_count == 1 ? "" : "s");
}
