/* engine.h - between the parts of the fuzzer: see engine.c. */
#ifndef CGPU_FUZZ_ENGINE_H
#define CGPU_FUZZ_ENGINE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define INPUT_MAX 8192u /* bytes of an input; longer files of a corpus are cut */

/* ---- what a target defines: the interface of LLVM's libFuzzer ---- */

/* Runs the code under test on one input. An answer of any kind will do; the sanitizers and the target's own
 * abort() say what is wrong. */
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* ---- coverage.c: what the last run did ---- */

void coverage_begin(void);
/* Whether the run since coverage_begin() went a way that none went before, or went one much oftener. */
bool coverage_new(void);
unsigned coverage_edges(void); /* that any run has gone */

/* Two operands that were compared and differed: of integers their bytes in memory, of strings at most this many. */
#define TOKEN_MAX 24u
#define TOKENS 256u
struct token {
  uint8_t bytes[2][TOKEN_MAX];
  uint8_t length[2];
};
/* One that was met lately; null while there is none. */
const struct token *coverage_token(uint64_t random);

/* ---- mutate.c ---- */

uint64_t fuzz_random(void); /* xorshift64*, from fuzz_seed on */
void fuzz_seed(uint64_t seed);
/* Changes the input in place, `other` being one to take pieces from; its new size, at most INPUT_MAX. */
size_t fuzz_mutate(uint8_t input[INPUT_MAX], size_t size, const uint8_t *other, size_t other_size);

#endif
