/* cuda_unsupported.c - the exports of NVIDIA's libcuda that the simulated driver does not model.
 *
 * Each answers CUDA_ERROR_NOT_SUPPORTED, whatever its arguments and before cuInit too: never a false
 * success. The list is cuda_unsupported.inc; a test compares it, and what is implemented, with the
 * names of NVIDIA's headers. With CGPU_SIM_LOG set, each call is named on stderr.
 *
 * The exports are weak aliases of functions without parameters. Callers pass arguments that nobody
 * reads, which both ABIs (System V x86-64, AAPCS64) allow; the declared types stay those of cuda.h.
 */
#include <stdio.h>
#include <stdlib.h>

#include "cuda_internal.h"

#ifndef __clang__
#pragma GCC diagnostic ignored "-Wattribute-alias"
#endif

static CUresult unsupported(const char *name) {
  if (getenv("CGPU_SIM_LOG") != NULL)
    fprintf(stderr, "simulated libcuda: %s is not modelled: CUDA_ERROR_NOT_SUPPORTED\n", name);
  return CUDA_ERROR_NOT_SUPPORTED;
}

#define EXPORTED(name) __attribute__((weak, visibility("default"), alias("unsupported_" #name)))
#define SG_UNSUPPORTED(name)                                                  \
  static CUresult unsupported_##name(void) { return unsupported(#name); }     \
  extern __typeof__(name) name EXPORTED(name);
/* OpenGL, EGL and VDPAU: their headers need those systems' own, and cuda.h does not declare them. */
#define SG_UNSUPPORTED_INTEROP(name)                                          \
  static CUresult unsupported_##name(void) { return unsupported(#name); }     \
  extern CUresult name(void) EXPORTED(name);
#include "cuda_unsupported.inc"
