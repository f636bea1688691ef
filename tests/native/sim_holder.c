/* A process that uses a simulated card, at the seam below libcuda, by order of a test.
 *
 *   sim_holder CARD BYTES    makes a context, takes BYTES of memory, says "ready"
 * Then each line of standard input is done and answered by "done":
 *   kernel MILLISECONDS      runs a kernel of that length and waits for its end
 *   xid NUMBER               injects an Xid error
 *   lost 0|1                 brings the card back, or makes it fall off the bus
 *   slow NANOSECONDS         delays every driver call and NVML query by that much
 * At the end of the input it exits 0. An error is told on standard error, exit code 1. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "card.h"

static void check(const char *what, int error) {
  if (error == SG_OK) return;
  fprintf(stderr, "sim_holder: %s: error %d\n", what, error);
  exit(1);
}

static void run_kernel(sg_channel channel, uint64_t milliseconds) {
  struct sg_item item = {.op = SG_OP_KERNEL, .engine = SG_ENGINE_COMPUTE, .duration_ns = milliseconds * 1000000};
  check("sg_submit", sg_submit(channel, &item));
  check("sg_channel_wait", sg_channel_wait(channel, UINT64_MAX));
}

int main(int argc, char **argv) {
  if (argc != 3) return 2;
  int card = atoi(argv[1]);
  uint64_t bytes = strtoull(argv[2], NULL, 10);
  sg_context context;
  sg_channel channel;
  sg_phys memory;
  check("sg_join", sg_join());
  check("sg_context_create", sg_context_create(card, &context));
  check("sg_channel_open", sg_channel_open(context, 0, &channel));
  if (bytes) check("sg_phys_create", sg_phys_create(card, bytes, &memory));
  puts("ready");
  fflush(stdout);
  char line[128], verb[16];
  while (fgets(line, sizeof line, stdin)) {
    unsigned long long number = 0;
    if (sscanf(line, "%15s %llu", verb, &number) != 2) return 2;
    if (strcmp(verb, "kernel") == 0) run_kernel(channel, number);
    if (strcmp(verb, "xid") == 0) check("sg_fault_set", sg_fault_set(card, SG_FAULT_XID, number));
    if (strcmp(verb, "slow") == 0) check("sg_fault_set", sg_fault_set(card, SG_FAULT_SLOW, number));
    if (strcmp(verb, "lost") == 0) check("sg_fault_set", sg_fault_set(card, SG_FAULT_LOST, number));
    puts("done");
    fflush(stdout);
  }
  return 0;
}
