/* cuda_capture_info.c - asking about a capture, and changing what the next node depends on. None of
 * these calls disturbs the capture.
 */
#include <string.h>

#include "cuda_capture.h"

/* While a blocking stream captures, the legacy stream cannot even be asked about. */
static bool implicit(CUstream stream) {
  for (struct capture_sequence *each = capture_sequences(); each && stream->is_legacy; each = each->next)
    for (const struct sim_capture *other = each->streams; other; other = other->next)
      if (other->stream->context == stream->context && (other->stream->flags & CU_STREAM_NON_BLOCKING) == 0)
        return true;
  return false;
}

static CUstreamCaptureStatus status_of(CUstream stream) {
  if (stream->capture == NULL)
    return CU_STREAM_CAPTURE_STATUS_NONE;
  return stream->capture->sequence->invalid ? CU_STREAM_CAPTURE_STATUS_INVALIDATED : CU_STREAM_CAPTURE_STATUS_ACTIVE;
}

struct info { /* where the caller wants what; all but `status` may be NULL */
  CUstreamCaptureStatus *status;
  cuuint64_t *id;
  CUgraph *graph;
  const CUgraphNode **dependencies;
  const CUgraphEdgeData **data;
  size_t *count;
};

static bool has_data(const struct capture_nodes *nodes) {
  static const CUgraphEdgeData full = {0};
  for (size_t i = 0; i < nodes->count; i++)
    if (memcmp(&nodes->data[i], &full, sizeof full) != 0)
      return true;
  return false;
}

static CUresult fill(CUstream stream, const struct info *info) {
  if (implicit(stream))
    return CUDA_ERROR_STREAM_CAPTURE_IMPLICIT;
  *info->status = status_of(stream);
  if (*info->status != CU_STREAM_CAPTURE_STATUS_ACTIVE)
    return CUDA_SUCCESS;
  const struct sim_capture *capture = stream->capture;
  if (info->dependencies && info->data == NULL && has_data(&capture->last))
    return CUDA_ERROR_LOSSY_QUERY;
  if (info->id)
    *info->id = capture->sequence->id;
  if (info->graph)
    *info->graph = capture->sequence->graph;
  if (info->dependencies)
    *info->dependencies = capture->last.nodes;
  if (info->data)
    *info->data = capture->last.data;
  if (info->count)
    *info->count = capture->last.count;
  return CUDA_SUCCESS;
}

static CUresult get_info(CUstream handle, const struct info *info) {
  CUstream stream;
  if (info->status == NULL)
    return CUDA_ERROR_INVALID_VALUE;
  CUresult result = sim_stream_get(handle, &stream);
  if (result != CUDA_SUCCESS)
    return result;
  graph_lock();
  result = fill(stream, info);
  graph_unlock();
  sim_stream_put_back(stream);
  return result;
}

CUresult CUDAAPI cuStreamIsCapturing(CUstream hStream, CUstreamCaptureStatus *captureStatus) {
  const struct info info = {.status = captureStatus};
  return get_info(sim_null_legacy(hStream), &info);
}

CUresult CUDAAPI cuStreamIsCapturing_ptsz(CUstream hStream, CUstreamCaptureStatus *captureStatus) {
  const struct info info = {.status = captureStatus};
  return get_info(sim_null_thread(hStream), &info);
}

CUresult CUDAAPI cuStreamGetCaptureInfo(CUstream hStream, CUstreamCaptureStatus *captureStatus_out, cuuint64_t *id_out) {
  const struct info info = {.status = captureStatus_out, .id = id_out};
  return get_info(sim_null_legacy(hStream), &info);
}

CUresult CUDAAPI cuStreamGetCaptureInfo_ptsz(CUstream hStream, CUstreamCaptureStatus *captureStatus_out,
                                             cuuint64_t *id_out) {
  const struct info info = {.status = captureStatus_out, .id = id_out};
  return get_info(sim_null_thread(hStream), &info);
}

CUresult CUDAAPI cuStreamGetCaptureInfo_v2(CUstream hStream, CUstreamCaptureStatus *captureStatus_out, cuuint64_t *id_out,
                                           CUgraph *graph_out, const CUgraphNode **dependencies_out,
                                           size_t *numDependencies_out) {
  const struct info info = {captureStatus_out, id_out, graph_out, dependencies_out, NULL, numDependencies_out};
  return get_info(sim_null_legacy(hStream), &info);
}

CUresult CUDAAPI cuStreamGetCaptureInfo_v2_ptsz(CUstream hStream, CUstreamCaptureStatus *captureStatus_out,
                                                cuuint64_t *id_out, CUgraph *graph_out,
                                                const CUgraphNode **dependencies_out, size_t *numDependencies_out) {
  const struct info info = {captureStatus_out, id_out, graph_out, dependencies_out, NULL, numDependencies_out};
  return get_info(sim_null_thread(hStream), &info);
}

CUresult CUDAAPI cuStreamGetCaptureInfo_v3(CUstream hStream, CUstreamCaptureStatus *captureStatus_out, cuuint64_t *id_out,
                                           CUgraph *graph_out, const CUgraphNode **dependencies_out,
                                           const CUgraphEdgeData **edgeData_out, size_t *numDependencies_out) {
  const struct info info = {captureStatus_out, id_out, graph_out, dependencies_out, edgeData_out, numDependencies_out};
  return get_info(sim_null_legacy(hStream), &info);
}

CUresult CUDAAPI cuStreamGetCaptureInfo_v3_ptsz(CUstream hStream, CUstreamCaptureStatus *captureStatus_out,
                                                cuuint64_t *id_out, CUgraph *graph_out,
                                                const CUgraphNode **dependencies_out,
                                                const CUgraphEdgeData **edgeData_out, size_t *numDependencies_out) {
  const struct info info = {captureStatus_out, id_out, graph_out, dependencies_out, edgeData_out, numDependencies_out};
  return get_info(sim_null_thread(hStream), &info);
}

static CUresult update_locked(CUstream stream, const CUgraphNode *nodes, const CUgraphEdgeData *data, size_t count,
                              unsigned flags) {
  if (flags > CU_STREAM_SET_CAPTURE_DEPENDENCIES || (count != 0 && nodes == NULL))
    return CUDA_ERROR_INVALID_VALUE;
  struct sim_capture *capture = stream->capture;
  if (capture == NULL)
    return CUDA_ERROR_ILLEGAL_STATE;
  if (capture->sequence->invalid)
    return CUDA_ERROR_STREAM_CAPTURE_INVALIDATED;
  for (size_t i = 0; i < count; i++)
    if (!graph_known(nodes[i], SIM_MAGIC_NODE) || nodes[i]->graph != capture->sequence->graph)
      return CUDA_ERROR_INVALID_VALUE;
  if (flags == CU_STREAM_SET_CAPTURE_DEPENDENCIES)
    capture->last.count = 0;
  CUresult result = CUDA_SUCCESS;
  for (size_t i = 0; i < count && result == CUDA_SUCCESS; i++)
    result = capture_nodes_add(&capture->last, nodes[i], data ? &data[i] : NULL);
  return result;
}

static CUresult update(CUstream handle, const CUgraphNode *nodes, const CUgraphEdgeData *data, size_t count,
                       unsigned flags) {
  CUstream stream;
  CUresult result = sim_stream_get(handle, &stream);
  if (result != CUDA_SUCCESS)
    return result;
  graph_lock();
  result = update_locked(stream, nodes, data, count, flags);
  graph_unlock();
  sim_stream_put_back(stream);
  return result;
}

CUresult CUDAAPI cuStreamUpdateCaptureDependencies(CUstream hStream, CUgraphNode *dependencies, size_t numDependencies,
                                                   unsigned int flags) {
  return update(sim_null_legacy(hStream), dependencies, NULL, numDependencies, flags);
}

CUresult CUDAAPI cuStreamUpdateCaptureDependencies_ptsz(CUstream hStream, CUgraphNode *dependencies,
                                                        size_t numDependencies, unsigned int flags) {
  return update(sim_null_thread(hStream), dependencies, NULL, numDependencies, flags);
}

CUresult CUDAAPI cuStreamUpdateCaptureDependencies_v2(CUstream hStream, CUgraphNode *dependencies,
                                                      const CUgraphEdgeData *dependencyData, size_t numDependencies,
                                                      unsigned int flags) {
  return update(sim_null_legacy(hStream), dependencies, dependencyData, numDependencies, flags);
}

CUresult CUDAAPI cuStreamUpdateCaptureDependencies_v2_ptsz(CUstream hStream, CUgraphNode *dependencies,
                                                           const CUgraphEdgeData *dependencyData,
                                                           size_t numDependencies, unsigned int flags) {
  return update(sim_null_thread(hStream), dependencies, dependencyData, numDependencies, flags);
}
