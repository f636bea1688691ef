/* rows_shared.c - rows of rows.c: memory of another process or of outside CUDA. */
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "rows.h"

#define FILE_HANDLE CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR

static CUdeviceptr pointer;
static CUmemoryPool pool;
static CUmemGenericAllocationHandle handle;
static int inbox = -1, taken_fd = -1; /* where take() looks, and what it has brought */
static union {
  CUipcMemHandle ipc;
  CUmemPoolPtrExportData pooled;
  unsigned char bytes[1024];
} taken;

/* ---- offering ---- */

static CUresult offer_ipc(size_t bytes, int *fd, size_t *size) {
  *fd = -1, *size = sizeof taken.ipc;
  TRY(cuMemAlloc_v2(&pointer, bytes));
  return cuIpcGetMemHandle(&taken.ipc, pointer);
}
static CUresult offer_handle(size_t bytes, int *fd, size_t *size) {
  const CUmemAllocationProp properties = {.type = CU_MEM_ALLOCATION_TYPE_PINNED,
                                          .requestedHandleTypes = FILE_HANDLE,
                                          .location = {.type = CU_MEM_LOCATION_TYPE_DEVICE}};
  *size = 1;
  TRY(cuMemCreate(&handle, bytes, &properties, 0));
  return cuMemExportToShareableHandle(fd, handle, FILE_HANDLE, 0);
}
static CUresult offer_pool(size_t bytes, int *fd, size_t *size) {
  const CUmemPoolProps properties = {.allocType = CU_MEM_ALLOCATION_TYPE_PINNED,
                                     .handleTypes = FILE_HANDLE,
                                     .location = {.type = CU_MEM_LOCATION_TYPE_DEVICE}};
  *size = sizeof taken.pooled;
  TRY(cuMemPoolCreate(&pool, &properties));
  TRY(cuMemAllocFromPoolAsync(&pointer, bytes, pool, NULL));
  TRY(cuCtxSynchronize());
  TRY(cuMemPoolExportPointer(&taken.pooled, pointer));
  return cuMemPoolExportToShareableHandle(fd, pool, FILE_HANDLE, 0);
}

/* ---- passing it on: by datagrams to sockets that are named after their process ---- */

#define CONTROL_BYTES CMSG_SPACE(sizeof(int))

static socklen_t name_of(struct sockaddr_un *name, int pid) {
  memset(name, 0, sizeof *name);
  name->sun_family = AF_UNIX; /* the path begins with a zero byte: no file */
  int length = snprintf(name->sun_path + 1, sizeof name->sun_path - 1, "cgpu-rows-%d", pid);
  return (socklen_t)(offsetof(struct sockaddr_un, sun_path) + 1 + (size_t)length);
}

static int give(int pid, int fd, size_t size) {
  struct sockaddr_un name;
  struct iovec content = {taken.bytes, size};
  _Alignas(struct cmsghdr) char control[CONTROL_BYTES] = {0};
  struct msghdr message = {.msg_name = &name, .msg_namelen = name_of(&name, pid), .msg_iov = &content, .msg_iovlen = 1};
  if (fd >= 0) {
    message.msg_control = control, message.msg_controllen = sizeof control;
    struct cmsghdr *header = CMSG_FIRSTHDR(&message);
    header->cmsg_level = SOL_SOCKET, header->cmsg_type = SCM_RIGHTS, header->cmsg_len = CMSG_LEN(sizeof fd);
    memcpy(CMSG_DATA(header), &fd, sizeof fd);
  }
  int sender = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
  ssize_t sent = sendmsg(sender, &message, 0);
  close(sender);
  return sent == (ssize_t)size ? 0 : -1;
}

int offer(const char *what, size_t bytes, int pid) {
  int fd = -1;
  size_t size = 0;
  CUresult result = CUDA_ERROR_INVALID_VALUE;
  if (!strcmp(what, "ipc")) result = offer_ipc(bytes, &fd, &size);
  if (!strcmp(what, "handle")) result = offer_handle(bytes, &fd, &size);
  if (!strcmp(what, "pool")) result = offer_pool(bytes, &fd, &size);
  int unsent = result == CUDA_SUCCESS ? give(pid, fd, size) : 0;
  if (fd >= 0) close(fd);
  return unsent ? unsent : (int)result;
}

int expect(void) {
  struct sockaddr_un name;
  socklen_t length = name_of(&name, getpid());
  inbox = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
  return bind(inbox, (struct sockaddr *)&name, length);
}

int take(void) {
  struct iovec content = {taken.bytes, sizeof taken.bytes};
  _Alignas(struct cmsghdr) char control[CONTROL_BYTES] = {0};
  struct msghdr message = {.msg_iov = &content, .msg_iovlen = 1};
  message.msg_control = control, message.msg_controllen = sizeof control;
  if (recvmsg(inbox, &message, MSG_DONTWAIT) <= 0) return -1;
  struct cmsghdr *header = CMSG_FIRSTHDR(&message);
  if (header && header->cmsg_type == SCM_RIGHTS) memcpy(&taken_fd, CMSG_DATA(header), sizeof taken_fd);
  return 0;
}

int withdraw(const char *what) {
  if (!strcmp(what, "ipc")) return (int)cuMemFree_v2(pointer);
  if (!strcmp(what, "handle")) return (int)cuMemRelease(handle);
  TRY(cuMemFreeAsync(pointer, CU_STREAM_LEGACY));
  TRY(cuCtxSynchronize());
  return (int)cuMemPoolDestroy(pool);
}

int forget(void) {
  if (taken_fd >= 0) close(taken_fd);
  taken_fd = -1;
  return 0;
}

/* ---- opening ---- */

#define FILE_OF(fd) ((void *)(intptr_t)(fd))

static CUresult close_ipc(void) { return cuIpcCloseMemHandle(pointer); }
static CUresult close_handle(void) { return cuMemRelease(handle); }
static CUresult close_pool(void) { return cuMemPoolDestroy(pool); }
static CUresult close_pointer(void) {
  TRY(cuMemFree_v2(pointer));
  return cuMemPoolDestroy(pool);
}

ALLOCATE(cuIpcOpenMemHandle, &pointer, taken.ipc, CU_IPC_MEM_LAZY_ENABLE_PEER_ACCESS)
ALLOCATE(cuIpcOpenMemHandle_v2, &pointer, taken.ipc, CU_IPC_MEM_LAZY_ENABLE_PEER_ACCESS)
ALLOCATE(cuMemImportFromShareableHandle, &handle, FILE_OF(taken_fd), FILE_HANDLE)
ALLOCATE(cuMemPoolImportFromShareableHandle, &pool, FILE_OF(taken_fd), FILE_HANDLE, 0)
static CUresult cuMemPoolImportPointer_row(void *entry, size_t bytes) {
  (void)bytes;
  TRY(cuMemPoolImportFromShareableHandle(&pool, FILE_OF(taken_fd), FILE_HANDLE, 0));
  CUresult result = CALL(cuMemPoolImportPointer, entry, &pointer, pool, &taken.pooled);
  if (result != CUDA_SUCCESS) cuMemPoolDestroy(pool);
  return result;
}

/* ---- what the simulated driver does not have ---- */

static CUexternalMemory outside;
static CUmipmappedArray mipmap;
static const CUDA_EXTERNAL_MEMORY_HANDLE_DESC file = {.type = CU_EXTERNAL_MEMORY_HANDLE_TYPE_OPAQUE_FD,
                                                      .handle = {.fd = 0},
                                                      .size = 1};

ALLOCATE(cuImportExternalMemory, &outside, &file)
ALLOCATE(cuExternalMemoryGetMappedBuffer, &pointer, outside, &(CUDA_EXTERNAL_MEMORY_BUFFER_DESC){.size = bytes})
ALLOCATE(cuExternalMemoryGetMappedMipmappedArray, &mipmap, outside,
         &(CUDA_EXTERNAL_MEMORY_MIPMAPPED_ARRAY_DESC){.numLevels = 1})
ALLOCATE(cuMulticastCreate, &handle, &(CUmulticastObjectProp){.numDevices = 1, .size = bytes})
ALLOCATE(cuCheckpointProcessRestore, getpid(), NULL)

#define IMPORT(name, release) {#name, ROW_IMPORT, name##_row, release}
#define ABSENT(name) {#name, ROW_ABSENT, name##_row, NULL}
const struct row shared_rows[] = {
    IMPORT(cuIpcOpenMemHandle, close_ipc),
    IMPORT(cuIpcOpenMemHandle_v2, close_ipc),
    IMPORT(cuMemImportFromShareableHandle, close_handle),
    IMPORT(cuMemPoolImportFromShareableHandle, close_pool),
    IMPORT(cuMemPoolImportPointer, close_pointer),
    ABSENT(cuImportExternalMemory),
    ABSENT(cuExternalMemoryGetMappedBuffer),
    ABSENT(cuExternalMemoryGetMappedMipmappedArray),
    ABSENT(cuMulticastCreate),
    ABSENT(cuCheckpointProcessRestore),
    {0},
};
