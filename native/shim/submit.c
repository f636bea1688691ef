/* submit.c - the bodies of all CG_SUBMIT rows: work passes the gate on its way to the driver. */
#include "gate.h"

#define CG_WORK_submit_kernel CG_WORK_KERNEL
#define CG_WORK_submit_graph CG_WORK_GRAPH
#define CG_WORK_submit_memop CG_WORK_MEMOP
#define CG_WORK_submit_stream_memop CG_WORK_MEMOP

/* What runs, for learnt costs. A launch is known by its function, which is the first argument or
 * follows the launch configuration; a graph by its executable; copies are one class and operations
 * on single words another. */
enum { MEMOP_CLASS = 1, STREAM_MEMOP_CLASS };
#define HANDLE(first, second, ...) \
  _Generic((first), const CUlaunchConfig *: (uint64_t)(uintptr_t)(second), default: (uint64_t)(uintptr_t)(first))
#define KEY_submit_kernel(...) HANDLE(__VA_ARGS__, 0, 0)
#define KEY_submit_graph(...) HANDLE(__VA_ARGS__, 0, 0)
#define KEY_submit_memop(...) MEMOP_CLASS
#define KEY_submit_stream_memop(...) STREAM_MEMOP_CLASS

/* A launch without its configuration has no stream to read; the driver words the refusal. */
#define UNREADABLE(...) UNREADABLE_(__VA_ARGS__, 0)
#define UNREADABLE_(first, ...) _Generic((first), const CUlaunchConfig *: !(first), default: false)

/* A driver older than the function exports no such name. A program that is linked against it would
 * not start without us; one that got here all the same learns it from the code that cuda.h gives to
 * names of driver functions that do not exist. */
#define CG_HOOK(...)
#define CG_SUBMIT(since, name, category, stream, params, args) \
  CG_EXPORT CUresult name params {                                   \
    const struct cg_driver *driver = cg_driver();                    \
    if (!driver || !driver->name) return CUDA_ERROR_NOT_FOUND;       \
    if (UNREADABLE args) return driver->name args;                   \
    CUresult result;                                                 \
    GATE_LAUNCH(result, driver, CG_WORK_##category, stream, KEY_##category args, driver->name args); \
    return result;                                                   \
  }
#include "hooks.def"
