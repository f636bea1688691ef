/* layout_dump.c - the layout of the region as the C compiler has it, as JSON, from the rows of region.h. */
#include <stdio.h>

#include "region.h"

static const char *separator;

static void field(const char *name, size_t offset, size_t size, size_t count, const char *writer) {
  printf("%s\n      {\"name\": \"%s\", \"offset\": %zu, \"size\": %zu, \"count\": %zu, \"writer\": \"%s\"}", separator, name,
         offset, size, count, writer);
  separator = ",";
}

static const char *next_structure = "";
static void begin(const char *name, size_t size) {
  printf("%s\n    \"%s\": {\"size\": %zu, \"fields\": [", next_structure, name, size);
  next_structure = "]},";
  separator = "";
}

static const char *next_constant = "";
static void constant(const char *name, unsigned long long value) {
  printf("%s\n    \"%s\": %llu", next_constant, name, value);
  next_constant = ",";
}

#define X(type, name, at, writer) field(#name, at, sizeof(type), 0, #writer);
#define A(type, name, count, at, writer) field(#name, at, sizeof(type), count, #writer);
#define ROWS(structure, fields)                         \
  begin(#structure, sizeof(struct structure));          \
  fields(X, A)
/* Members of the composites, which have no rows: an array of an array counts all its elements. */
#define PART(structure, member, element) \
  field(#member, offsetof(struct structure, member), sizeof(struct element), \
        sizeof(((struct structure *)0)->member) / sizeof(struct element), "")
#define CONSTANT(name) constant(#name, name)

int main(void) {
  printf("{\n  \"structures\": {");
  ROWS(cgpu_grants_header, CGPU_GRANTS_HEADER_FIELDS)
  ROWS(cgpu_grants_gpu, CGPU_GRANTS_GPU_FIELDS)
  ROWS(cgpu_grants_surplus, CGPU_GRANTS_SURPLUS_FIELDS)
  ROWS(cgpu_usage_header, CGPU_USAGE_HEADER_FIELDS)
  ROWS(cgpu_usage_gpu, CGPU_USAGE_GPU_FIELDS)
  ROWS(cgpu_usage_slot_header, CGPU_USAGE_SLOT_FIELDS)
  ROWS(cgpu_usage_slot_gpu, CGPU_USAGE_SLOT_GPU_FIELDS)
  ROWS(cgpu_usage_export, CGPU_USAGE_EXPORT_FIELDS)
  begin("cgpu_grants", sizeof(struct cgpu_grants));
  PART(cgpu_grants, header, cgpu_grants_header);
  PART(cgpu_grants, gpu, cgpu_grants_gpu);
  PART(cgpu_grants, surplus, cgpu_grants_surplus);
  begin("cgpu_usage_slot", sizeof(struct cgpu_usage_slot));
  PART(cgpu_usage_slot, header, cgpu_usage_slot_header);
  PART(cgpu_usage_slot, gpu, cgpu_usage_slot_gpu);
  begin("cgpu_usage", sizeof(struct cgpu_usage));
  PART(cgpu_usage, header, cgpu_usage_header);
  PART(cgpu_usage, gpu, cgpu_usage_gpu);
  PART(cgpu_usage, slot, cgpu_usage_slot);
  PART(cgpu_usage, exports, cgpu_usage_export);
  printf("]}\n  },\n  \"constants\": {");
  CONSTANT(CGPU_REGION_MAJOR);
  CONSTANT(CGPU_REGION_MINOR);
  CONSTANT(CGPU_GRANTS_MAGIC);
  CONSTANT(CGPU_USAGE_MAGIC);
  CONSTANT(CGPU_MAX_GPUS);
  CONSTANT(CGPU_MAX_SLOTS);
  CONSTANT(CGPU_NO_SLOT);
  CONSTANT(CGPU_MAX_EXPORTS);
  CONSTANT(CGPU_EXPORT_IMPORTERS);
  CONSTANT(CGPU_UNIT_BYTES);
  CONSTANT(CGPU_TENANT_REFUSE_MANAGED);
  CONSTANT(CGPU_GPU_PRESENT);
  CONSTANT(CGPU_GRANT_CLOSED);
  CONSTANT(CGPU_GRANT_OPEN);
  CONSTANT(CGPU_GRANT_FREE);
  CONSTANT(CGPU_DEMAND_WANT);
  CONSTANT(CGPU_DEMAND_BUSY);
  CONSTANT(CGPU_DEMAND_HOLD);
  CONSTANT(CGPU_SLOT_FREE);
  CONSTANT(CGPU_SLOT_LIVE);
  CONSTANT(CGPU_GATE_BUSY);
  CONSTANT(CGPU_GATE_WANT);
  CONSTANT(CGPU_ACCOUNT_SEQ_BITS);
  CONSTANT(CGPU_ACCOUNT_SLOT_BITS);
  CONSTANT(CGPU_CHARGE_SEQ_BITS);
  printf("\n  }\n}\n");
  return 0;
}
