/* ctl_json.c - the state of the joined machine as a JSON document. */
#include "ctl_json.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "card_internal.h"

struct out { char *text; size_t used, bytes; };

static void put(struct out *out, const char *format, ...) __attribute__((format(printf, 2, 3)));
static void put(struct out *out, const char *format, ...) {
  va_list args;
  va_start(args, format);
  size_t room = out->used < out->bytes ? out->bytes - out->used : 0;
  int length = vsnprintf(room ? out->text + out->used : NULL, room, format, args);
  va_end(args);
  out->used += length > 0 ? (size_t)length : 0; /* beyond `bytes` when it did not fit */
}

static void put_string(struct out *out, const char *name, const char *value) {
  put(out, "\"%s\": \"", name);
  for (const unsigned char *c = (const unsigned char *)value; *c; c++) {
    if (*c == '"' || *c == '\\') put(out, "\\%c", *c);
    else if (*c < 0x20) put(out, "\\u%04x", *c);
    else put(out, "%c", *c);
  }
  put(out, "\"");
}

static void put_process(struct out *out, const struct sg_process_usage *row, const char *separator) {
  put(out, "%s{\"pid\": %u, \"own_pid\": %u, \"start_ticks\": %llu, \"memory_bytes\": %llu, \"busy_ns\": %llu, "
           "\"copy_ns\": %llu, \"kernels\": %llu, \"live_contexts\": %llu, ",
      separator, row->pid, row->own_pid, (unsigned long long)row->start_ticks, (unsigned long long)row->memory_bytes,
      (unsigned long long)row->busy_ns, (unsigned long long)row->copy_ns, (unsigned long long)row->kernels,
      (unsigned long long)row->live_contexts);
  put_string(out, "comm", row->comm);
  put(out, ", ");
  put_string(out, "cgroup", row->cgroup);
  put(out, "}");
}

static int put_processes(struct out *out, int card, const char *name,
                         int (*list)(int, struct sg_process_usage *, unsigned, unsigned *)) {
  unsigned count = 0, capacity = SG_MAX_PROCESSES;
  struct sg_process_usage *rows = malloc(capacity * sizeof *rows);
  int rc = rows ? list(card, rows, capacity, &count) : SG_E_NOMEM;
  put(out, "\"%s\": [", name);
  for (unsigned i = 0; rc == SG_OK && i < count && i < capacity; i++) put_process(out, &rows[i], i ? ", " : "");
  put(out, "]");
  free(rows);
  return rc;
}

static int put_cgroups(struct out *out, int card) {
  unsigned count = 0, capacity = SG_MAX_CGROUPS;
  struct sg_cgroup_usage *rows = malloc(capacity * sizeof *rows);
  int rc = rows ? sg_cgroups(card, rows, capacity, &count) : SG_E_NOMEM;
  put(out, "\"cgroups\": [");
  for (unsigned i = 0; rc == SG_OK && i < count; i++) {
    put(out, "%s{", i ? ", " : "");
    put_string(out, "cgroup", rows[i].cgroup);
    put(out, ", \"memory_bytes\": %llu, \"busy_ns\": %llu, \"copy_ns\": %llu, \"kernels\": %llu, \"hard_bytes\": %llu, "
             "\"soft_bytes\": %llu, \"live_processes\": %u}",
        (unsigned long long)rows[i].memory_bytes, (unsigned long long)rows[i].busy_ns,
        (unsigned long long)rows[i].copy_ns, (unsigned long long)rows[i].kernels,
        (unsigned long long)rows[i].hard_bytes, (unsigned long long)rows[i].soft_bytes, rows[i].live_processes);
  }
  put(out, "]");
  free(rows);
  return rc;
}

static void put_uuid(struct out *out, const uint8_t uuid[16]) {
  put(out, "\"uuid\": \"GPU-");
  for (int i = 0; i < 16; i++) put(out, "%s%02x", i == 4 || i == 6 || i == 8 || i == 10 ? "-" : "", uuid[i]);
  put(out, "\"");
}

static int put_card(struct out *out, int card) {
  const struct sg_card_info *info = sg_card(card);
  struct sg_card_usage usage;
  unsigned percent = 0;
  int rc = sg_card_usage(card, &usage);
  if (rc == SG_OK) rc = sg_utilisation(card, 0, 1000000000u, &percent);
  if (rc != SG_OK) return rc;
  put(out, "%s{\"index\": %d, ", card ? ", " : "", card);
  put_string(out, "name", info->name);
  put(out, ", ");
  put_uuid(out, info->uuid);
  put(out, ", \"total_bytes\": %llu, \"reserved_bytes\": %llu, \"used_bytes\": %llu, \"free_bytes\": %llu, ",
      (unsigned long long)info->total_bytes, (unsigned long long)info->reserved_bytes,
      (unsigned long long)usage.used_bytes, (unsigned long long)usage.free_bytes);
  put(out, "\"busy_ns\": %llu, \"idle_ns\": %llu, \"copy_ns\": %llu, \"utilisation_percent\": %u, ",
      (unsigned long long)usage.busy_ns, (unsigned long long)usage.idle_ns, (unsigned long long)usage.copy_ns, percent);
  put(out, "\"xid_count\": %llu, \"last_xid\": %llu, \"lost\": %s, ", (unsigned long long)usage.xid_count,
      (unsigned long long)usage.last_xid, usage.lost ? "true" : "false");
  rc = put_processes(out, card, "processes", sg_processes);
  put(out, ", ");
  if (rc == SG_OK) rc = put_processes(out, card, "finished", sg_finished_processes);
  put(out, ", ");
  if (rc == SG_OK) rc = put_cgroups(out, card);
  put(out, "}");
  return rc;
}

int ctl_status(char *text, size_t bytes) {
  struct out out = {text, 0, bytes};
  const struct sg_machine_info *machine = sg_machine();
  put(&out, "{\"simulated\": true, ");
  put_string(&out, "driver_version", machine->driver_version);
  put(&out, ", \"cuda_version\": %d, \"recoveries\": %llu, \"cards\": [", machine->cuda_version,
      (unsigned long long)atomic_load(&sg_state->recoveries));
  int rc = SG_OK;
  for (int card = 0; rc == SG_OK && card < machine->cards; card++) rc = put_card(&out, card);
  put(&out, "], \"time_ns\": %llu}", (unsigned long long)sg_now_ns());
  return rc == SG_OK ? (int)out.used : rc;
}
