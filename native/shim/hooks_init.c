/* hooks_init.c - cuInit: the first moment at which a tenant can be told what is wrong with its files.
 *
 * A process that only asks which cards there are takes no slot; registering waits for the first
 * context or allocation. Initialising always passes: a refusal here would look like a missing GPU.
 */
#include "memory.h"

CG_EXPORT CUresult cuInit(unsigned int Flags) {
  CG_DRIVER(cuInit);
  CUresult result = driver->cuInit(Flags);
  cg_is_tenant(); /* finds and maps the files, and says what is wrong with them */
  return result;
}
