// One optimizer step over many parameters in one launch: SGD, Adam, AdamW, RMSprop by PyTorch's rules.
//
// A network has hundreds of small parameters; a launch for each would be mostly launching.  So a table says, for each parameter,
// where its arrays lie and which blocks are its own; a block finds its parameter by bisection.  The table is an argument of the
// kernel (of 4096 bytes at most), so nothing is copied for it, and a captured graph has it inside.  The numbers of the rule are
// arguments too; a captured graph reads them where ``live`` points instead, since a learning rate changes between replays.
#include "types.cuh"

struct Entry {
  float *param, *state0, *state1;                                // momentum buffer; or m and v; or square average and buffer
  const float* grad;
  int64_t count, first_block;
};

constexpr int PER_BLOCK = 1024;                                  // elements of a block

struct Table { Entry entries[72]; };

template <class Rule> __device__ __forceinline__ void update(const Table& table, int parameters, Rule rule) {
  int low = 0, high = parameters;                                // the last entry whose first block is not after this one
  while (high - low > 1) {
    const int middle = (low + high) / 2;
    (table.entries[middle].first_block <= blockIdx.x ? low : high) = middle;
  }
  const Entry e = table.entries[low];
  const int64_t first = (blockIdx.x - e.first_block) * PER_BLOCK + threadIdx.x;
#pragma unroll
  for (int j = 0; j < PER_BLOCK / 256; j++) {
    const int64_t i = first + j * 256;
    if (i < e.count) rule(e, i);
  }
}

// g = grad + decay * p;  buf = momentum * buf + (1 - dampening) * g;  p -= lr * (nesterov ? g + momentum * buf : buf)
extern "C" __global__ void __launch_bounds__(256)
sgd(const __grid_constant__ Table table, const int parameters, const float* __restrict__ live, float lr, float momentum,
    float keep, float decay, const int nesterov) {
  if (live) lr = live[0], momentum = live[1], keep = live[2], decay = live[3];
  update(table, parameters, [=](const Entry& e, int64_t i) {
    const float p = e.param[i];
    float g = fmaf(decay, p, e.grad[i]);
    if (e.state0) {
      const float buf = fmaf(momentum, e.state0[i], keep * g);
      e.state0[i] = buf;
      g = nesterov ? fmaf(momentum, buf, g) : buf;
    }
    e.param[i] = p - lr * g;
  });
}

// m += (1 - beta1)(g - m);  v = beta2 * v + (1 - beta2) g^2;  p -= rate * m / (sqrt(v) * scale + eps).  Decoupled: p *= shrink first.
// rate = lr / (1 - beta1^step) and scale = 1 / sqrt(1 - beta2^step) come from the host, in double.
extern "C" __global__ void __launch_bounds__(256)
adam(const __grid_constant__ Table table, const int parameters, const float* __restrict__ live, float rate, float scale,
     float rest1, float beta2, float rest2, float eps, float decay, float shrink) {
  if (live) {
    rate = live[0], scale = live[1], rest1 = live[2], beta2 = live[3];
    rest2 = live[4], eps = live[5], decay = live[6], shrink = live[7];
  }
  update(table, parameters, [=](const Entry& e, int64_t i) {
    const float p = e.param[i] * shrink, g = fmaf(decay, p, e.grad[i]);
    const float m = fmaf(rest1, g - e.state0[i], e.state0[i]), v = fmaf(beta2, e.state1[i], rest2 * (g * g));
    e.state0[i] = m;
    e.state1[i] = v;
    e.param[i] = p - rate * (m / (sqrtf(v) * scale + eps));
  });
}

// g = grad + decay * p;  square = alpha * square + (1 - alpha) g^2;  d = g / (sqrt(square) + eps);  with a buffer d = buf = momentum * buf + d
extern "C" __global__ void __launch_bounds__(256)
rmsprop(const __grid_constant__ Table table, const int parameters, const float* __restrict__ live, float lr, float alpha,
        float rest, float eps, float decay, float momentum) {
  if (live) lr = live[0], alpha = live[1], rest = live[2], eps = live[3], decay = live[4], momentum = live[5];
  update(table, parameters, [=](const Entry& e, int64_t i) {
    const float p = e.param[i], g = fmaf(decay, p, e.grad[i]);
    const float square = fmaf(alpha, e.state0[i], rest * (g * g));
    e.state0[i] = square;
    float d = g / (sqrtf(square) + eps);
    if (e.state1) {
      d = fmaf(momentum, e.state1[i], d);
      e.state1[i] = d;
    }
    e.param[i] = p - lr * d;
  });
}
