// Prints the GB/s (reads plus writes) of a copy on the device: the best of 20 copies of `bytes` (default 1
// GiB).
#include <cuda_runtime.h>
#include <stdio.h>
#include <stdlib.h>

int main(int argc, char** argv) {
  const size_t bytes = argc > 1 ? strtoull(argv[1], nullptr, 10) : size_t(1) << 30;
  void *from = nullptr, *to = nullptr;
  if (cudaMalloc(&from, bytes) != cudaSuccess || cudaMalloc(&to, bytes) != cudaSuccess) return 1;
  cudaMemset(from, 1, bytes);
  cudaEvent_t begin, end;
  cudaEventCreate(&begin);
  cudaEventCreate(&end);
  float best = 0;
  for (int i = 0; i < 20; i++) {
    cudaEventRecord(begin);
    cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToDevice);
    cudaEventRecord(end);
    if (cudaEventSynchronize(end) != cudaSuccess) return 1;
    float ms = 0;
    cudaEventElapsedTime(&ms, begin, end);
    if (best == 0 || ms < best) best = ms;
  }
  printf("%.1f\n", 2.0 * double(bytes) / best / 1e6);
  return 0;
}
