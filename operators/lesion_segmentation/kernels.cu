// The few CUDA kernels of the application: the probe of a GPU, and tiles of a volume.
// Volumes are float32, C order, axes (channel or label, z, y, x). One thread per element.
// NVRTC compiles this file for the GPU at hand; it includes no header.

typedef long long index_t;

__device__ index_t thread_index() {
    return (index_t)blockIdx.x * blockDim.x + threadIdx.x;
}

// values[i] <- factor * values[i] + i % 97
extern "C" __global__ void probe(float *values, float factor, index_t count) {
    const index_t i = thread_index();
    if (i < count) values[i] = factor * values[i] + (float)(i % 97);
}

// Element i of a tile (c, pz, py, px) at corner (z, y, x) of a volume (c, nz, ny, nx).
__device__ index_t in_volume(index_t i, index_t nz, index_t ny, index_t nx, index_t pz, index_t py,
                             index_t px, index_t z, index_t y, index_t x) {
    const index_t ix = i % px, iy = i / px % py, iz = i / (px * py) % pz, c = i / (px * py * pz);
    return ((c * nz + z + iz) * ny + y + iy) * nx + x + ix;
}

// tile <- volume at a corner; count is the number of elements of the tile
extern "C" __global__ void cut_tile(const float *volume, float *tile, index_t nz, index_t ny,
                                    index_t nx, index_t pz, index_t py, index_t px, index_t z,
                                    index_t y, index_t x, index_t count) {
    const index_t i = thread_index();
    if (i < count) tile[i] = volume[in_volume(i, nz, ny, nx, pz, py, px, z, y, x)];
}

// total at a corner <- total + importance * tile; not_finite <- 1 if the tile has inf or NaN
extern "C" __global__ void add_tile(float *total, const float *tile, const float *importance,
                                    int *not_finite, index_t nz, index_t ny, index_t nx, index_t pz,
                                    index_t py, index_t px, index_t z, index_t y, index_t x,
                                    index_t count) {
    const index_t i = thread_index();
    if (i >= count) return;
    const float value = tile[i];
    if (!(value - value == 0.0f)) *not_finite = 1;
    total[in_volume(i, nz, ny, nx, pz, py, px, z, y, x)] += importance[i % (pz * py * px)] * value;
}
