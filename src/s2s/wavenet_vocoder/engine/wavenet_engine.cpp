// Autoregressive WaveNet sampling on a CPU: the whole time loop in one call.
//
// What is precomputed, how memory is laid out and why the result is exact: references/wavenet-engine.md.
// One source, compiled three times by including itself: portable, AVX2 + FMA, AVX-512 + VNNI. The part between
// `#ifdef S2S_ISA` and `#else` is that body; the rest is shared: memory, description of the net, C interface.
//
// Letters: B streams (clips, windows or segments), R residual, H half of the gate, G = 2H, S skip, C conditioning,
// L layers, K columns of a matrix. Activations are [stream][channel]; channels are padded to 16 with zeros.

#ifdef S2S_ISA

namespace S2S_ISA {

constexpr int W = S2S_WIDTH;    // floats in a vector
constexpr int NV = S2S_VECTORS;  // vectors in a panel of output rows
constexpr int P = W * NV;        // rows in a panel
constexpr int NC = 6;            // most columns that one kernel call holds in registers
constexpr int OFFSET = S2S_ACT_OFFSET;  // int8 activations are stored as q + OFFSET in a byte

typedef float vf __attribute__((vector_size(W * 4), may_alias));
typedef float vfu __attribute__((vector_size(W * 4), aligned(4), may_alias));
typedef int32_t vi __attribute__((vector_size(W * 4), may_alias));
typedef int32_t viu __attribute__((vector_size(W * 4), aligned(4), may_alias));
typedef uint8_t vb __attribute__((vector_size(W)));

#define S2S_INLINE static inline __attribute__((always_inline))

S2S_INLINE vf load(const float* p) { return *reinterpret_cast<const vfu*>(p); }
S2S_INLINE vi load(const int32_t* p) { return *reinterpret_cast<const viu*>(p); }
S2S_INLINE void store(float* p, vf v) { *reinterpret_cast<vfu*>(p) = v; }
S2S_INLINE void store(int32_t* p, vi v) { *reinterpret_cast<viu*>(p) = v; }
S2S_INLINE vf splat(float s) { return s - vf{}; }
S2S_INLINE vi splat(int32_t s) { return s - vi{}; }

// ---- kernels: y[c][rows] += W[rows][k] x[c][k]; per output the products are added in the order of k, always ---------

// STEP columns lie side by side in a lane. `weights` unpacks TURN columns of a panel, nv vectors for each STEP of them.
// BLOCK columns of a panel stay in a cache.
template <class T> struct Kind;
template <> struct Kind<float> {  // weights [panel][k][row]
    using Act = float; using Acc = float; using V = vf;
    static constexpr int STEP = 1, BLOCK = 256;
    template <int nv> static constexpr int TURN = 1;
    S2S_INLINE V spread(const float* x) { return splat(*x); }
    template <int nv> S2S_INLINE void weights(const float* w, V (*out)[nv]) {
        for (int v = 0; v < nv; v++) out[0][v] = *reinterpret_cast<const vf*>(w + v * W);
    }
    S2S_INLINE V dot(V acc, V w, V x) { return acc + w * x; }
    S2S_INLINE V enter(V sum, const float*) { return sum; }
    S2S_INLINE V leave(V sum, const float*) { return sum; }
};
template <> struct Kind<int8_t> {  // weights [panel][k / 4][row][4]
    using Act = uint8_t; using Acc = int32_t; using V = vi;
    static constexpr int STEP = 4, BLOCK = 512;
    template <int nv> static constexpr int TURN = 4;
    S2S_INLINE V spread(const uint8_t* x) { int32_t quad; __builtin_memcpy(&quad, x, 4); return splat(quad); }
    template <int nv> S2S_INLINE void weights(const int8_t* w, V (*out)[nv]) {
        for (int v = 0; v < nv; v++) out[0][v] = *reinterpret_cast<const vi*>(w + v * W * 4);
    }
    S2S_INLINE V dot(V acc, V w, V x) { return S2S_DOT(acc, w, x); }
    S2S_INLINE V enter(V sum, const float*) { return sum; }
    S2S_INLINE V leave(V sum, const float*) { return sum; }
};
// 24 bits a weight: of every four vectors of Kind<float>, as integers on their rows' grids, the first three keep their
// upper 24 bits and carry the fourth, a byte each. A sum is in units of its row's grid while it is made; the units are
// powers of two, so that it rounds as the sum of the same floats does.
template <> struct Kind<Fixed24> {
    using Act = float; using Acc = float; using V = vf;
    static constexpr int STEP = 1, BLOCK = 256;
    template <int nv> static constexpr int TURN = 4 / nv;
    S2S_INLINE V spread(const float* x) { return splat(*x); }
    template <int nv> S2S_INLINE void weights(const Fixed24* w, V (*out)[nv]) {
        const vi* from = reinterpret_cast<const vi*>(w);
        const vi a = from[0], b = from[1], c = from[2];
        const vi upper = splat(int32_t(0xFFFFFF00)), third = splat(int32_t(0x00FF0000)), fourth = splat(int32_t(0xFF000000));
        const vi low = ((b << 16) & third) | ((c << 8) & ~third);
        const vi quad[4] = {a & upper, b & upper, c & upper, ((a << 24) & fourth) | (low & ~fourth)};
        for (int i = 0; i < 4; i++) out[i / nv][i % nv] = __builtin_convertvector(quad[i], vf);
    }
    S2S_INLINE V dot(V acc, V w, V x) { return acc + w * x; }
    S2S_INLINE V enter(V sum, const float* grids) { return sum * load(grids); }
    S2S_INLINE V leave(V sum, const float* unit) { return sum * load(unit); }
};

struct Units { const float *unit = nullptr, *grids = nullptr; };

template <class T, int nv, int nc>
static void kernel(const T* w, const typename Kind<T>::Act* x, long ldx, const typename Kind<T>::Acc* from, long ld_from,
                   typename Kind<T>::Acc* y, long ldy, int k, const Units units, const char* ahead, long ahead_step) {
    using D = Kind<T>;
    constexpr int TURN = D::template TURN<nv>;
    typename D::V acc[nc][nv];
    for (int c = 0; c < nc; c++)
        for (int v = 0; v < nv; v++) acc[c][v] = D::enter(load(from + c * ld_from + v * W), units.grids + v * W);
    int i = 0;
    do {  // never empty: sums stay in registers
        __builtin_prefetch(ahead, 0, 2);  // the next block of weights comes to L2 while this one is used
        ahead += ahead_step;
        typename D::V wv[TURN / D::STEP][nv];
        D::template weights<nv>(w, wv);
        for (int u = 0; u < TURN / D::STEP; u++)
            for (int c = 0; c < nc; c++) {
                const typename D::V xv = D::spread(x + c * ldx + i + u * D::STEP);
                for (int v = 0; v < nv; v++) acc[c][v] = D::dot(acc[c][v], wv[u][v], xv);
            }
        w += nv * W * TURN;
    } while ((i += TURN) < k);
    for (int c = 0; c < nc; c++)
        for (int v = 0; v < nv; v++) store(y + c * ldy + v * W, D::leave(acc[c][v], units.unit + v * W));
}

// One column and `np` panels at once: enough independent sums to hide the latency of an addition. The hardware fetches
// ahead better than instructions would (measured: 10-20 % in small nets).
template <class T, int nv, int np>
static void kernel1(const T* w, long panel, const typename Kind<T>::Act* x, const typename Kind<T>::Acc* from,
                    typename Kind<T>::Acc* y, long ldy, int k, const Units units, long ld_units) {
    using D = Kind<T>;
    constexpr int TURN = D::template TURN<nv>;
    typename D::V acc[np][nv];
    for (int p = 0; p < np; p++)
        for (int v = 0; v < nv; v++) acc[p][v] = D::enter(load(from + p * ldy + v * W), units.grids + p * ld_units + v * W);
    int i = 0;
    do {
        for (int p = 0; p < np; p++) {
            typename D::V wv[TURN / D::STEP][nv];
            D::template weights<nv>(w + p * panel, wv);
            for (int u = 0; u < TURN / D::STEP; u++) {
                const typename D::V xv = D::spread(x + i + u * D::STEP);
                for (int v = 0; v < nv; v++) acc[p][v] = D::dot(acc[p][v], wv[u][v], xv);
            }
        }
        w += nv * W * TURN;
    } while ((i += TURN) < k);
    for (int p = 0; p < np; p++)
        for (int v = 0; v < nv; v++) store(y + p * ldy + v * W, D::leave(acc[p][v], units.unit + p * ld_units + v * W));
}

template <class T> struct Matrix {
    const T* data = nullptr;
    int rows = 0, cols = 0;          // padded
    const float* scale = nullptr;    // int8, 24 bits: value of one unit of the sum, per row
    const float* grids = nullptr;    // 24 bits: units in 1, per row
    const int32_t* start = nullptr;  // int8: where a sum starts, so that OFFSET cancels

    Units units(long row = 0) const { return sizeof(T) == 3 ? Units{scale + row, grids + row} : Units{}; }
};

template <class T>
using Kernel = void (*)(const T*, const typename Kind<T>::Act*, long, const typename Kind<T>::Acc*, long, typename Kind<T>::Acc*,
                        long, int, const Units, const char*, long);

template <class T, int nv> static Kernel<T> pick_columns(int nc) {
    static const Kernel<T> table[NC] = {kernel<T, nv, 1>, kernel<T, nv, 2>, kernel<T, nv, 3>,
                                        kernel<T, nv, 4>, kernel<T, nv, 5>, kernel<T, nv, 6>};
    return table[nc - 1];
}
template <class T> static Kernel<T> pick(int nv, int nc) {
    if constexpr (NV >= 4) {
        if (nv == 4) return pick_columns<T, 4>(nc);
        if (nv == 3) return pick_columns<T, 3>(nc);
    }
    return nv == 2 ? pick_columns<T, 2>(nc) : pick_columns<T, 1>(nc);
}

// y[c][:] = from[c][:] + M x[c][:] for n columns. `from` may be y itself, or with ld_from = 0 one row for all.
template <class T>
static void multiply(const Matrix<T>& m, const typename Kind<T>::Act* x, long ldx, const typename Kind<T>::Acc* from, long ld_from,
                     typename Kind<T>::Acc* y, long ldy, int n) {
    int row = 0;
    if (n == 1) {
        constexpr int np = 8 / NV;
        const long panel = long(P) * m.cols;
        for (; row + np * P <= m.rows; row += np * P)
            kernel1<T, NV, np>(m.data + long(row) * m.cols, panel, x, from + row, y + row, P, m.cols, m.units(row), P);
        for (; row + P <= m.rows; row += P)
            kernel1<T, NV, 1>(m.data + long(row) * m.cols, 0, x, from + row, y + row, P, m.cols, m.units(row), 0);
        for (; row < m.rows; row += W)
            kernel1<T, 1, 1>(m.data + long(row) * m.cols, 0, x, from + row, y + row, W, m.cols, m.units(row), 0);
        return;
    }
    constexpr int BLOCK = Kind<T>::BLOCK;
    const int groups = (n + NC - 1) / NC;
    while (row < m.rows) {
        const int nv = m.rows - row >= P ? NV : 1;  // a last panel that is not full is made of single vectors
        const int turn = nv == 1 ? Kind<T>::template TURN<1> : Kind<T>::template TURN<NV>;
        for (int k = 0; k < m.cols; k += BLOCK) {
            const int kn = m.cols - k < BLOCK ? m.cols - k : BLOCK;
            const T* block = m.data + long(row) * m.cols + long(k) * nv * W;
            const long bytes = long(kn) * nv * W * sizeof(T);
            const char* next = reinterpret_cast<const char*>(block) + bytes;
            const typename Kind<T>::Acc* sums = k ? y : from;
            const long ld_sums = k ? ldy : ld_from;
            for (int g = 0; g < groups; g++) {
                const int c = long(n) * g / groups, c_end = long(n) * (g + 1) / groups;
                pick<T>(nv, c_end - c)(block, x + c * ldx + k, ldx, sums + c * ld_sums + row, ld_sums, y + c * ldy + row, ldy, kn,
                                       m.units(row), next + bytes * g / groups, bytes / groups * turn / kn);
            }
        }
        row += nv * W;
    }
}

// dense (rows, cols) -> panels. The same order of bytes that `multiply` reads.
template <class T> static void pack(Arena& arena, Matrix<T>& m, const T* dense, int rows, int cols) {
    constexpr int STEP = Kind<T>::STEP;
    T* out = arena.take<T>(long(rows) * cols);
    m.data = out; m.rows = rows; m.cols = cols;
    for (int row = 0; row < rows;) {
        const int height = rows - row >= P ? P : W;
        for (int k = 0; k < cols; k += STEP)
            for (int r = 0; r < height; r++)
                for (int j = 0; j < STEP; j++) *out++ = dense[long(row + r) * cols + k + j];
        row += height;
    }
}

static void pack(Arena& arena, Matrix<Fixed24>& m, const float* dense, int rows, int cols) {
    float *unit = arena.take<float>(2 * rows), *grids = unit + rows;
    int32_t* out = reinterpret_cast<int32_t*>(arena.take<Fixed24>(long(rows) * cols));
    m.data = reinterpret_cast<Fixed24*>(out); m.rows = rows; m.cols = cols; m.scale = unit; m.grids = grids;
    for (int row = 0; row < rows;) {
        const int height = rows - row >= P ? P : W, quad = 4 * W / height;  // columns that four vectors hold
        for (int r = row; r < row + height; r++) {
            grids[r] = 256 * grid_of(dense + long(r) * cols, cols);
            unit[r] = 1 / grids[r];
        }
        for (int k = 0; k < cols; k += quad, out += 3 * W)
            for (int lane = 0; lane < W; lane++) {
                uint32_t bits[4];
                for (int i = 0; i < 4; i++) {  // vector i of the four
                    const int r = row + i % (height / W) * W + lane;
                    bits[i] = uint32_t(int32_t(dense[long(r) * cols + k + i / (height / W)] * grids[r]));
                }
                for (int i = 0; i < 3; i++) out[i * W + lane] = int32_t(bits[i] | (bits[3] >> (24 - 8 * i) & 255));
            }
        row += height;
    }
}

// ---- pointwise -----------------------------------------------------------------------------------------------------

S2S_INLINE vf clamp(vf x, float low, float high) { return S2S_MIN(S2S_MAX(x, splat(low)), splat(high)); }

// e^x for |x| <= 80, relative error below 2e-7 (Cephes polynomial).
S2S_INLINE vf exponential(vf x) {
    const float magic = 12582912.0f;  // 1.5 * 2^23: adding it rounds to an integer that sits in the low bits
    const vf shifted = x * 1.44269504088896341f + magic;
    const vf n = shifted - magic;
    vf r = x - n * 0.693359375f;
    r = r + n * 2.12194440e-4f;
    vf p = r * 1.9875691500e-4f + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * (r * r) + r + 1.0f;
    return (vf)((vi)p + ((vi)shifted << 23));
}

// tanh(a) * sigmoid(b) with one division.
S2S_INLINE vf gate(vf a, vf b) {
    const vf ea = exponential(clamp(a * -2.0f, -40.0f, 40.0f)), eb = exponential(clamp(-b, -40.0f, 40.0f));
    return (1.0f - ea) / ((1.0f + ea) * (1.0f + eb));
}

S2S_INLINE void store_quantised(uint8_t* p, vf x, vf per_unit) {
    const float magic = 12582912.0f;
    const vf rounded = clamp(x * per_unit, -127.0f, 127.0f) + magic;
    const vi q = (vi)rounded - (0x4B400000 - OFFSET);
    const vb bytes = __builtin_convertvector((vi)(q & 255), vb);
    __builtin_memcpy(p, &bytes, W);
}

// ---- the net, packed for this instruction set ----------------------------------------------------------------------

template <class T> struct Layer {
    int dilation;
    Matrix<T> current, out, skip, columns;
    Matrix<T>* past;       // [kernel - 1], nearest tap first
    Matrix<float> table;   // conditioning per frame
    const float *bias, *out_bias;
    const float *x_per_unit, *z_per_unit;  // int8: 1 / activation scale, per channel
};

template <class T> struct PackedNet : Net {
    Shape s;
    int R, H, G, S, C, O;  // padded
    Arena arena, seldom;  // what every sample reads, in the order of reading; what only some samples read
    Layer<T>* layer;
    const float *first, *first_bias, *skip_bias, *head_bias, *final_bias, *value;
    Matrix<float> head, last;
    const float* cond_per_unit;

    static constexpr bool quantised = sizeof(T) == 1;

    // Copy a (rows, cols) part of a tensor into dense[rows_padded][cols_padded]; gates keep each half at its own start.
    static void spread(float* dense, int cols_padded, int half, int half_padded, const float* src, int rows, int cols,
                       long row_stride, long col_stride) {
        for (int r = 0; r < rows; r++) {
            const int to = r < half ? r : half_padded + r - half;
            for (int c = 0; c < cols; c++) dense[long(to) * cols_padded + c] = src[r * row_stride + c * col_stride];
        }
    }
    const float* padded(const float* src, int half, int half_padded, int n, int n_padded) {
        float* out = arena.take<float>(n_padded);
        spread(out, 1, half, half_padded, src, n, 1, 1, 1);
        return out;
    }

    // float, 24 bits: the same rounded weights. int8: fold the channels' scales into the columns, then one weight scale
    // per row over all `count` matrices, because they add into one sum.
    template <class F> void pack_rows(Matrix<F>** m, float** dense, const float**, const int* cols, int rows, int count) {
        for (int i = 0; i < count; i++) {
            for (int r = 0; r < rows; r++) round_to_grid(dense[i] + long(r) * cols[i], cols[i]);
            pack(i ? seldom : arena, *m[i], dense[i], rows, cols[i]);
        }
    }
    void pack_rows(Matrix<int8_t>** m, float** dense, const float** act_scale, const int* cols, int rows, int count) {
        float* scale = arena.take<float>(rows);
        int32_t* start = arena.take<int32_t>(rows);
        Buffer<int8_t> q[16];
        for (int i = 0; i < count; i++) q[i].resize(long(rows) * cols[i]);
        for (int r = 0; r < rows; r++) {
            float most = 0;
            for (int i = 0; i < count; i++)
                for (int c = 0; c < cols[i]; c++) {
                    const float a = __builtin_fabsf(dense[i][long(r) * cols[i] + c] * act_scale[i][c]);
                    most = a > most ? a : most;
                }
            scale[r] = most > 0 ? most / 127.0f : 1.0f;
            int32_t sum = 0;
            for (int i = 0; i < count; i++)
                for (int c = 0; c < cols[i]; c++) {
                    const long at = long(r) * cols[i] + c;
                    q[i].data[at] = int8_t(__builtin_lrintf(dense[i][at] * act_scale[i][c] / scale[r]));
                    sum += q[i].data[at];
                }
            start[r] = -OFFSET * sum;
        }
        for (int i = 0; i < count; i++) {
            pack<int8_t>(i ? seldom : arena, *m[i], q[i].data, rows, cols[i]);
            m[i]->scale = scale;
            m[i]->start = start;
        }
    }
    // int8: scales padded into `to`; returns what they divide by. A padded channel is 0 and stays 0.
    const float* scales_of(const float* from, int n, int n_padded, float* to) {
        float* per_unit = arena.take<float>(n_padded);
        for (int i = 0; i < n_padded; i++) {
            to[i] = i < n ? from[i] : 1.0f;
            per_unit[i] = 1.0f / to[i];
        }
        return per_unit;
    }
    template <class M> void pack_one(Matrix<M>& m, const float* src, int rows, int cols, int rows_padded, int cols_padded,
                                     const float* act_scale) {
        Buffer<float> dense(long(rows_padded) * cols_padded);
        spread(dense.data, cols_padded, rows, rows, src, rows, cols, cols, 1);
        Matrix<M>* list[1] = {&m};
        float* data[1] = {dense.data};
        pack_rows(list, data, &act_scale, &cols_padded, rows_padded, 1);
    }

    PackedNet(const Shape& shape, const float* const* arrays, const float* act_scale) : s(shape) {
        R = pad(s.residual); H = pad(s.half); G = 2 * H; S = pad(s.skip); C = pad(s.cond); O = pad(s.out);
        layer = arena.take<Layer<T>>(s.layers);
        float* table = arena.take<float>(long(s.inputs) * R);  // (inputs, residual): one row a class, or one for a scalar
        spread(table, R, s.inputs, s.inputs, *arrays++, s.inputs, s.residual, s.residual, 1);
        first = table;
        first_bias = padded(*arrays++, s.residual, R, s.residual, R);
        Buffer<float> x_scale(R), z_scale(H), cond_scale(C);
        const float* scale_of_cond = act_scale + s.layers * long(s.residual + s.half);
        cond_per_unit = quantised && s.hop == 1 ? scales_of(scale_of_cond, s.cond, C, cond_scale.data) : nullptr;
        for (int l = 0; l < s.layers; l++) {
            Layer<T>& a = layer[l];
            if (quantised) {
                a.x_per_unit = scales_of(act_scale + long(l) * s.residual, s.residual, R, x_scale.data);
                a.z_per_unit = scales_of(act_scale + long(s.layers) * s.residual + long(l) * s.half, s.half, H, z_scale.data);
            }
            a.dilation = s.dilation[l];
            a.past = arena.take<Matrix<T>>(s.kernel - 1);
            const float* conv = *arrays++;  // (G, R, kernel); the last tap is the current sample
            const float* cond = *arrays++;  // (G, C)
            a.bias = padded(*arrays++, s.half, H, 2 * s.half, G);
            const int count = s.kernel + (s.hop == 1 && s.cond > 0);
            Buffer<float> dense[16];
            Matrix<T>* list[16];
            float* data[16];
            const float* scales[16];
            int cols[16];
            for (int i = 0; i < count; i++) {
                const bool tap = i < s.kernel;
                cols[i] = tap ? R : C;
                scales[i] = tap ? x_scale.data : cond_scale.data;
                dense[i].resize(long(G) * cols[i]);
                data[i] = dense[i].data;
                if (tap)
                    spread(data[i], R, s.half, H, conv + s.kernel - 1 - i, 2 * s.half, s.residual, long(s.residual) * s.kernel, s.kernel);
                else
                    spread(data[i], C, s.half, H, cond, 2 * s.half, s.cond, s.cond, 1);
                list[i] = !tap ? &a.columns : i == 0 ? &a.current : &a.past[i - 1];
            }
            pack_rows(list, data, scales, cols, G, count);
            if (s.hop > 1 && s.cond > 0) {
                Buffer<float> frame(long(G) * C);
                spread(frame.data, C, s.half, H, cond, 2 * s.half, s.cond, s.cond, 1);
                pack<float>(seldom, a.table, frame.data, G, C);
            }
            const float *out_w = *arrays++, *out_b = *arrays++, *skip_w = *arrays++;
            pack_one<T>(a.out, out_w, s.residual, s.half, R, H, z_scale.data);
            a.out_bias = padded(out_b, s.residual, R, s.residual, R);
            pack_one<T>(a.skip, skip_w, s.skip, s.half, S, H, z_scale.data);
        }
        skip_bias = padded(*arrays++, s.skip, S, s.skip, S);
        const float *head_w = *arrays++, *head_b = *arrays++, *final_w = *arrays++, *final_b = *arrays++;
        pack_one<float>(head, head_w, s.skip, s.skip, S, S, nullptr);
        head_bias = padded(head_b, s.skip, S, s.skip, S);
        pack_one<float>(last, final_w, s.out, s.skip, O, S, nullptr);
        final_bias = padded(final_b, s.out, O, s.out, O);
        value = padded(*arrays, s.out, O, s.out, O);  // categorical: the sample that a class stands for
    }

    Worker* worker(int streams, const int64_t* lengths) override;
};

// ---- one thread's share of the streams -----------------------------------------------------------------------------

template <class T> struct Half : Worker {
    using Act = typename Kind<T>::Act;
    using Acc = typename Kind<T>::Acc;
    static constexpr bool quantised = sizeof(T) == 1;

    const PackedNet<T>& net;
    const int B;
    Buffer<int64_t> length;  // falling: stream b sings until length[b]
    int64_t t = 0;
    Arena arena;
    int* period;    // per layer [kernel]: samples for which each past tap, and last the conditioning, is done at once
    Act** ring;     // per layer [slot][B][R]: inputs of the last (kernel - 1) * dilation samples (kernel 1: of this one)
    Acc** before;   // per layer [span][B][G]: what is known of the coming samples' gates
    float** table;  // per layer [B][G]: bias and conditioning of the current frame
    float *x, *skip, *hidden, *logits, *cond_frame, *input;
    Act *z, *cond_columns;
    Acc* sums;

    Half(const PackedNet<T>& n, int streams, const int64_t* lengths) : net(n), B(streams), length(streams) {
        const Shape& s = net.s;
        for (int b = 0; b < B; b++) length.data[b] = lengths[b];
        period = arena.take<int>(s.layers * s.kernel);
        ring = arena.take<Act*>(s.layers);
        before = arena.take<Acc*>(s.layers);
        table = arena.take<float*>(s.layers);
        for (int l = 0; l < s.layers; l++) {
            const long n_ring = long(slots(l)) * B * net.R;
            ring[l] = arena.take<Act>(n_ring);
            if (quantised) memset(ring[l], OFFSET, n_ring);
            set_periods(l);
            before[l] = arena.take<Acc>(long(span(l)) * B * net.G);
            table[l] = s.hop > 1 ? arena.take<float>(long(B) * net.G) : nullptr;
        }
        x = arena.take<float>(long(B) * net.R);
        z = arena.take<Act>(long(B) * net.H);
        sums = arena.take<Acc>(long(B) * (net.R > net.S ? net.R : net.S));
        skip = arena.take<float>(long(B) * net.S);
        hidden = arena.take<float>(long(B) * net.S);
        logits = arena.take<float>(long(B) * net.O);
        cond_frame = arena.take<float>(long(B) * (net.C + 16));
        cond_columns = arena.take<Act>(long(s.ahead) * B * (net.C + 16));
        if (quantised) memset(cond_columns, OFFSET, long(s.ahead) * B * (net.C + 16));
        input = arena.take<float>(B);
        for (int b = 0; b < B; b++) input[b] = s.start;
    }

    int slots(int l) const {
        const int n = (net.s.kernel - 1) * net.layer[l].dilation;
        return n > 0 ? n : 1;
    }
    // One stream: each tap is done for as many samples as it is known for, because that reads its weights less often.
    // Many streams: all taps for the samples that the nearest is known for, so that sums stay in the cache between them.
    // A tap at distance i * d is known for i * d samples; its columns must be neighbours in the ring, and what it adds to
    // must be there.
    void set_periods(int l) {
        const Shape& s = net.s;
        const int d = net.layer[l].dilation, past = s.kernel - 1;
        int* p = period + l * s.kernel;
        p[past] = B == 1 || past == 0 ? s.ahead : gcd(d, s.ahead);
        int before_it = p[past];
        for (int i = past - 1; i >= 0; i--) before_it = p[i] = gcd(before_it, B == 1 ? d * gcd(i + 1, past) : d);
    }
    bool columns() const { return net.s.hop == 1 && net.s.cond > 0; }
    int span(int l) const { return period[l * net.s.kernel + net.s.kernel - (columns() ? 1 : 2)]; }

    Act* slot(int l, int64_t time) const { return ring[l] + (time % slots(l)) * B * net.R; }

    // Columns are contiguous over [slot][stream] while all streams sing; afterwards each slot is its own call.
    void multiply_slots(const Matrix<T>& m, const Act* in, long ld_in, const Acc* from, long ld_from, Acc* out, int count, int active) {
        if (active == B && (ld_from == 0 || from == out)) return multiply<T>(m, in, ld_in, from, ld_from, out, m.rows, count * B);
        for (int j = 0; j < count; j++) {
            const Acc* first = from == out ? out + long(j) * B * m.rows : from;
            multiply<T>(m, in + long(j) * B * ld_in, ld_in, first, ld_from, out + long(j) * B * m.rows, m.rows, active);
        }
    }

    void load_conditioning(const Chunk& c, int active) {
        const Shape& s = net.s;
        if (s.cond == 0) {
            if (s.hop > 1 && t == 0)
                for (int l = 0; l < s.layers; l++)
                    for (int b = 0; b < B; b++) memcpy(table[l] + long(b) * net.G, net.layer[l].bias, net.G * sizeof(float));
            return;
        }
        const auto column = [&](int b, int64_t time) {
            int64_t at = time / s.hop - c.cond_from;
            if (at >= c.cond_columns) at = c.cond_columns - 1;
            return c.cond + (int64_t(b) * c.cond_columns + at) * s.cond;
        };
        if (s.hop == 1) {
            if (t % s.ahead) return;
            for (int j = 0; j < s.ahead; j++)
                for (int b = 0; b < active; b++) {
                    const float* from = column(b, t + j);
                    Act* to = cond_columns + (long(j) * B + b) * net.C;
                    if constexpr (quantised) {
                        memcpy(cond_frame, from, s.cond * sizeof(float));
                        for (int i = 0; i < net.C; i += W) store_quantised(to + i, load(cond_frame + i), load(net.cond_per_unit + i));
                    } else {
                        memcpy(to, from, s.cond * sizeof(float));
                    }
                }
            return;
        }
        if (t % s.hop) return;
        for (int b = 0; b < active; b++) memcpy(cond_frame + long(b) * net.C, column(b, t), s.cond * sizeof(float));
        for (int l = 0; l < s.layers; l++)
            multiply<float>(net.layer[l].table, cond_frame, net.C, net.layer[l].bias, 0, table[l], net.G, active);
    }

    // The taps of the past and the conditioning columns of coming samples of layer l, as far as they are due at t.
    void fill(int l, int active) {
        const Layer<T>& a = net.layer[l];
        const Shape& s = net.s;
        Acc* to = before[l] + (t % span(l)) * B * net.G;
        const Acc* from;  // where a sum starts
        long ld_from = 0;
        if constexpr (quantised) {
            from = a.current.start;
        } else {
            from = s.hop > 1 ? table[l] : a.bias;
            ld_from = s.hop > 1 && B > 1 ? net.G : 0;
        }
        const auto add = [&](int i, const Matrix<T>& m, const Act* in, long ld_in) {
            const int count = period[l * s.kernel + i];
            if (t % count == 0) multiply_slots(m, in, ld_in, from, ld_from, to, count, active);
            from = to;
            ld_from = net.G;
        };
        if (columns()) add(s.kernel - 1, a.columns, cond_columns + (t % s.ahead) * B * net.C, net.C);
        for (int i = s.kernel - 2; i >= 0; i--) add(i, a.past[i], slot(l, t + slots(l) - int64_t(i + 1) * a.dilation), net.R);
    }

    void gates(int l, const Acc* sum, int active, float* seen) {
        const Layer<T>& a = net.layer[l];
        const int H = net.H, G = net.G;
        for (int b = 0; b < active; b++) {
            const Acc* from = sum + long(b) * G;
            Act* to = z + long(b) * H;
            if constexpr (quantised) {
                const float *scale = a.current.scale, *add = net.s.hop > 1 ? table[l] + long(b) * G : a.bias;
                for (int i = 0; i < H; i += W) {
                    const vf first = __builtin_convertvector(load(from + i), vf) * load(scale + i) + load(add + i);
                    const vf second = __builtin_convertvector(load(from + H + i), vf) * load(scale + H + i) + load(add + H + i);
                    store_quantised(to + i, gate(first, second), load(a.z_per_unit + i));
                }
            } else {
                for (int i = 0; i < H; i += W) store(to + i, gate(load(from + i), load(from + H + i)));
                if (seen) note(seen, to, net.s.half);
            }
        }
    }

    static void note(float* most, const float* values, int n) {
        for (int i = 0; i < n; i++) most[i] = __builtin_fmaxf(most[i], __builtin_fabsf(values[i]));
    }

    void step(const Chunk& c, int active, float* seen) {
        const Shape& s = net.s;
        load_conditioning(c, active);
        for (int l = 0; l < s.layers; l++)  // before any layer writes the slot that its oldest tap reads
            fill(l, active);

        for (int b = 0; b < active; b++) {
            memcpy(skip + long(b) * net.S, net.skip_bias, net.S * sizeof(float));
            const float* w = s.inputs > 1 ? net.first + long(input[b]) * net.R : net.first;
            const float gain = s.inputs > 1 ? 1.0f : input[b];
            Act* to = slot(0, t) + long(b) * net.R;
            for (int i = 0; i < net.R; i += W) {
                const vf value = load(w + i) * gain + load(net.first_bias + i);
                if constexpr (quantised) {
                    store(x + long(b) * net.R + i, value);
                    store_quantised(to + i, value, load(net.layer[0].x_per_unit + i));
                } else {
                    store(to + i, value);
                }
            }
        }
        for (int l = 0; l < s.layers; l++) {
            const Layer<T>& a = net.layer[l];
            Act* in = slot(l, t);
            if constexpr (!quantised)
                if (seen)
                    for (int b = 0; b < active; b++) note(seen + long(l) * s.residual, in + long(b) * net.R, s.residual);
            Acc* sum = before[l] + (t % span(l)) * B * net.G;
            multiply<T>(a.current, in, net.R, sum, net.G, sum, net.G, active);
            gates(l, sum, active, seen ? seen + long(s.layers) * s.residual + long(l) * s.half : nullptr);
            if (l + 1 < s.layers) residual(l, in, active);  // nobody reads what leaves the last layer
            const int S = net.S;
            if constexpr (quantised) {
                multiply<T>(a.skip, z, net.H, a.skip.start, 0, sums, S, active);
                const float* scale = a.skip.scale;
                for (int b = 0; b < active; b++)
                    for (int i = 0; i < S; i += W) {
                        float* to = skip + long(b) * S + i;
                        store(to, load(to) + __builtin_convertvector(load(sums + long(b) * S + i), vf) * load(scale + i));
                    }
            } else if (!together(active) || l + 1 == s.layers) {  // else `residual` has done it
                multiply<T>(a.skip, z, net.H, skip, S, skip, S, active);
            }
        }
        relu(skip, long(active) * net.S);
        multiply<float>(net.head, skip, net.S, net.head_bias, 0, hidden, net.S, active);
        relu(hidden, long(active) * net.S);
        multiply<float>(net.last, hidden, net.S, net.final_bias, 0, logits, net.O, active);
    }

    // x of the next layer = scale * x + out(z), written straight into the next layer's slot.
    void residual(int l, const Act* in, int active) {
        const Layer<T>& a = net.layer[l];
        const int R = net.R;
        const float gain = net.s.residual_scale, *bias = a.out_bias;
        Act* to = slot(l + 1, t);
        if constexpr (quantised) {
            multiply<T>(a.out, z, net.H, a.out.start, 0, sums, R, active);
            const float *scale = a.out.scale, *per_unit = net.layer[l + 1].x_per_unit;
            for (int b = 0; b < active; b++) {
                float* exact = x + long(b) * R;
                const Acc* sum = sums + long(b) * R;
                for (int i = 0; i < R; i += W) {
                    const vf value = load(exact + i) * gain + load(bias + i) + __builtin_convertvector(load(sum + i), vf) * load(scale + i);
                    store(exact + i, value);
                    store_quantised(to + long(b) * R + i, value, load(per_unit + i));
                }
            }
        } else {
            for (int b = 0; b < active; b++)
                for (int i = 0; i < R; i += W) store(to + long(b) * R + i, load(in + long(b) * R + i) * gain + load(bias + i));
            if (together(active))
                kernel1<T, NV, 2>(a.out.data, a.skip.data - a.out.data, z, to, to, skip - to, net.H, a.out.units(),
                                  a.skip.scale - a.out.scale);
            else
                multiply<T>(a.out, z, net.H, to, R, to, R, active);
        }
    }

    // One stream and one panel each: out and skip are one product, or four sums would wait for each other.
    bool together(int active) const { return !quantised && NV == 4 && active == 1 && net.R == P && net.S == P; }

    static void relu(float* p, long n) {
        for (long i = 0; i < n; i += W) store(p + i, clamp(load(p + i), 0.0f, 3.4e38f));
    }

    void run(const Chunk& c, volatile int32_t* stop, volatile int64_t* done) override {
        const Shape& s = net.s;
        float* seen = c.seen;
        if (seen)
            for (int64_t i = 0; i < c.cond_columns * B; i++)
                note(seen + s.layers * long(s.residual + s.half), c.cond + i * s.cond, s.cond);
        int active = B;
        for (int64_t i = 0; i < c.steps && !*stop; i++, t++) {
            while (active > 0 && length.data[active - 1] <= t) active--;
            if (active == 0) break;
            if (c.teacher)
                for (int b = 0; b < active; b++) input[b] = c.teacher[int64_t(b) * c.steps + i];
            step(c, active, seen);
            for (int b = 0; b < active; b++) {
                const float* row = logits + long(b) * net.O;
                const int64_t at = int64_t(b) * c.steps + i;
                if (c.logits) memcpy(c.logits + at * s.out, row, s.out * sizeof(float));
                const float drawn = c.noise ? draw(s, row, c.noise + at * s.noise) : 0.0f;
                const float value = s.mixtures ? drawn : net.value[int(drawn)];
                if (c.out) c.out[at] = value;
                input[b] = s.inputs > 1 ? drawn : value;
            }
            *done += active;
        }
    }
};

template <class T> Worker* PackedNet<T>::worker(int streams, const int64_t* lengths) {
    return new Half<T>(*this, streams, lengths);
}

static Net* make(const Shape& shape, const float* const* arrays, const float* act_scale) {
    if (act_scale) return new PackedNet<int8_t>(shape, arrays, act_scale);
    if (shape.packed) return new PackedNet<Fixed24>(shape, arrays, nullptr);
    return new PackedNet<float>(shape, arrays, nullptr);
}

// Multiply-adds on registers alone: what no kernel can outrun. Returns the number of operations, 2 a multiply-add.
template <class T> static int64_t churn(long rounds) {
    using D = Kind<T>;
    constexpr int n = NV * NC;
    typename D::V acc[n] = {}, w = {}, x = {};
    S2S_OPAQUE(x);
    for (long i = 0; i < rounds; i++) {
#pragma GCC unroll 24
        for (int j = 0; j < n; j++) {
            S2S_OPAQUE(w);  // or the compiler would multiply before the loop
            acc[j] = D::dot(acc[j], w, x);
            S2S_OPAQUE(acc[j]);
        }
    }
    return int64_t(rounds) * n * W * D::STEP * 2;
}
static int64_t churn_ops(int quantised, long rounds) { return quantised ? churn<int8_t>(rounds) : churn<float>(rounds); }

#undef S2S_INLINE
}  // namespace S2S_ISA

#undef S2S_ISA
#undef S2S_WIDTH
#undef S2S_VECTORS
#undef S2S_ACT_OFFSET
#undef S2S_DOT
#undef S2S_MIN
#undef S2S_MAX

#else

#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <new>
#include <thread>
#include <vector>
#if defined(__x86_64__)
#include <immintrin.h>
#endif
#if defined(__linux__)
#include <sys/mman.h>
#endif

#if defined(__x86_64__)
#define S2S_OPAQUE(value) __asm__ volatile("" : "+v"(value))
#elif defined(__aarch64__)
#define S2S_OPAQUE(value) __asm__ volatile("" : "+w"(value))
#else
#define S2S_OPAQUE(value) __asm__ volatile("" : "+m"(value))
#endif

namespace {

constexpr int ABI = 3;

// Zeroed memory on 64-byte lines, in huge pages where the system has them: weights are read from end to end each step.
void* zeroed(size_t bytes) {
    const size_t huge = size_t(2) << 20, align = bytes >= huge ? huge : 64;
    void* p = aligned_alloc(align, (bytes + align - 1) / align * align);
    if (!p) throw std::bad_alloc();
#if defined(__linux__)
    if (align == huge) madvise(p, bytes, MADV_HUGEPAGE);
#endif
    memset(p, 0, bytes);
    return p;
}

template <class T> struct Buffer {
    T* data = nullptr;
    Buffer() = default;
    explicit Buffer(size_t n) { resize(n); }
    Buffer(const Buffer&) = delete;
    ~Buffer() { free(data); }
    void resize(size_t n) { free(data); data = static_cast<T*>(zeroed(n * sizeof(T) + 64)); }
};

// Memory handed out in the order of use, so that what is read together lies together.
struct Arena {
    static constexpr size_t BLOCK = size_t(4) << 20, TAIL = 4096;  // prefetches may run a little past the end
    std::vector<char*> blocks;
    size_t used = 0, size = 0;
    Arena() = default;
    Arena(const Arena&) = delete;
    ~Arena() { for (char* p : blocks) free(p); }
    char* bytes(size_t n) {
        n = (n + 63) / 64 * 64;
        if (used + n + TAIL > size) {
            size = n + TAIL > BLOCK ? n + TAIL : BLOCK;
            blocks.push_back(static_cast<char*>(zeroed(size)));
            used = 0;
        }
        char* p = blocks.back() + used;
        used += n;
        return p;
    }
    template <class T> T* take(size_t n) { return reinterpret_cast<T*>(bytes(n * sizeof(T))); }
};

struct Fixed24 { uint8_t bytes[3]; };  // of four of them that lie together, see Kind<Fixed24>

// Steps of the finest grid of 24-bit integers, of a power of two, that reaches a row's largest weight.
float grid_of(const float* row, int n) {
    float most = 0;
    for (int i = 0; i < n; i++) most = std::fmax(most, std::fabs(row[i]));
    int exponent = 0;
    std::frexp(most, &exponent);
    return std::ldexp(1.0f, 23 - (exponent > -80 ? exponent : -80));
}
// What 32 bits round away of a sum is as much as this takes from its weights: at most 2^-24 of the row's largest.
void round_to_grid(float* row, int n) {
    const float grid = grid_of(row, n);
    for (int i = 0; i < n; i++) row[i] = std::fmin(std::rint(row[i] * grid), 8388607.0f) / grid;
}

int gcd(int a, int b) { return b ? gcd(b, a % b) : a; }
int pad(int n) { return (n + 15) / 16 * 16; }

struct Shape {
    int layers, residual, half, skip, out, cond, kernel;
    int hop;        // samples that one conditioning column lasts; 1: a column a sample
    int ahead;      // most samples whose past taps are computed at once
    int inputs;     // 1: the sample itself; else: number of classes
    int mixtures;   // logistics in the output; 0: categorical
    int noise;      // numbers of noise a sample
    int packed;     // 24 bits a weight: for what is bound by memory
    float residual_scale, log_scale_min, start;
    const int32_t* dilation;
};

struct Chunk {
    int64_t steps;
    const float* cond;      // [B][cond_columns][C]; the first column is number `cond_from`
    int64_t cond_columns, cond_from;
    const float* noise;     // [B][steps][noise]
    const float* teacher;   // [B][steps], input of each step instead of the last sample (a class where inputs are classes), or null
    float* out;             // [B][steps]
    float* logits;          // [B][steps][out] or null
    float* seen;            // largest magnitudes [L][residual], [L][half], [cond], or null (fp32, one thread)
};

struct Worker {
    virtual ~Worker() = default;
    virtual void run(const Chunk& chunk, volatile int32_t* stop, volatile int64_t* done) = 0;
};
struct Net {
    virtual ~Net() = default;
    virtual Worker* worker(int streams, const int64_t* lengths) = 0;
};

// One draw from the output distribution. Mixture: noise is a Gumbel number a logistic, then a logistic number.
// Categorical: a Gumbel number a class; the answer is the number of the class.
float draw(const Shape& s, const float* row, const float* noise) {
    const int n = s.mixtures ? s.mixtures : s.out;
    int best = 0;
    float most = row[0] + noise[0];
    for (int i = 1; i < n; i++)
        if (row[i] + noise[i] > most) { most = row[i] + noise[i]; best = i; }
    if (!s.mixtures) return float(best);
    const float log_scale = std::fmax(row[2 * n + best], s.log_scale_min);
    const float x = row[n + best] + std::exp(log_scale) * noise[n];
    return std::fmin(1.0f, std::fmax(-1.0f, x));
}

}  // namespace

// ---- the same body for each instruction set --------------------------------------------------------------------------

namespace {

#define S2S_ISA portable
#define S2S_WIDTH 4
#define S2S_VECTORS 2
#define S2S_ACT_OFFSET 0
#define S2S_DOT(acc, w, x) portable_dot(acc, w, x)
#define S2S_MIN(a, b) ((a) < (b) ? (a) : (b))
#define S2S_MAX(a, b) ((a) > (b) ? (a) : (b))
template <class V> static inline V portable_dot(V acc, V w, V x) {
    for (int byte = 0; byte < 4; byte++)  // sign-extend byte by byte: four products a lane
        acc += ((w << (24 - 8 * byte)) >> 24) * ((x << (24 - 8 * byte)) >> 24);
    return acc;
}
#include "wavenet_engine.cpp"

#if defined(__x86_64__)

#define S2S_ISA avx2
#define S2S_WIDTH 8
#define S2S_VECTORS 2
#define S2S_ACT_OFFSET 0
#define S2S_MIN(a, b) (vf)_mm256_min_ps((__m256)(a), (__m256)(b))
#define S2S_MAX(a, b) (vf)_mm256_max_ps((__m256)(a), (__m256)(b))
// |x| * sign(w, x) keeps both factors within 7 bits, so a pair of products fits in 16 bits: the sum is exact.
#define S2S_DOT(acc, w, x)                                                                                     \
    (V)_mm256_add_epi32((__m256i)(acc), _mm256_madd_epi16(_mm256_maddubs_epi16(_mm256_abs_epi8((__m256i)(x)), \
                        _mm256_sign_epi8((__m256i)(w), (__m256i)(x))), _mm256_set1_epi16(1)))
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,fma"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx2,fma")
#endif
#include "wavenet_engine.cpp"
#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif

#define S2S_ISA avx512
#define S2S_WIDTH 16
#define S2S_VECTORS 4
#define S2S_ACT_OFFSET 128
#define S2S_MIN(a, b) (vf)_mm512_min_ps((__m512)(a), (__m512)(b))
#define S2S_MAX(a, b) (vf)_mm512_max_ps((__m512)(a), (__m512)(b))
#define S2S_DOT(acc, w, x) (V)_mm512_dpbusd_epi32((__m512i)(acc), (__m512i)(x), (__m512i)(w))
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx2,fma"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx2,fma")
#endif
#include "wavenet_engine.cpp"
#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif

#endif  // x86-64

enum Isa { PORTABLE = 0, AVX2 = 1, AVX512 = 2 };

bool available(int isa) {
#if defined(__x86_64__)
    if (isa == AVX2) return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
    if (isa == AVX512)
        return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") &&
               __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vnni");
#endif
    return isa == PORTABLE;
}

struct Session {
    std::vector<Worker*> workers;
    std::vector<int> first;  // stream each worker starts at
    std::vector<int64_t> done;
    volatile int32_t stop = 0;
    ~Session() { for (Worker* w : workers) delete w; }
};

struct Handle {
    Net* net;
    Shape shape;
    std::vector<int32_t> dilation;
    ~Handle() { delete net; }
};

}  // namespace

// ---- C interface ---------------------------------------------------------------------------------------------------

#define S2S_API extern "C" __attribute__((visibility("default")))

S2S_API int s2s_wavenet_abi() { return ABI; }

S2S_API int s2s_wavenet_available(int isa) { return available(isa); }

// ints: layers, residual, half, skip, out, cond, kernel, hop, ahead, inputs, mixtures, noise, packed, then a dilation a layer.
// floats: residual_scale, log_scale_min, start. arrays: see PackedNet. act_scale: null for
// fp32, else one a channel: [layers][residual], [layers][half], [cond]. Null when out of memory.
S2S_API void* s2s_wavenet_net(int isa, const int32_t* ints, const float* floats, const float* const* arrays, const float* act_scale) {
    if (!available(isa)) return nullptr;
    try {
        Handle* h = new Handle;
        h->dilation.assign(ints + 13, ints + 13 + ints[0]);
        h->shape = Shape{ints[0], ints[1], ints[2], ints[3], ints[4], ints[5], ints[6], ints[7], ints[8], ints[9], ints[10], ints[11],
                         ints[12], floats[0], floats[1], floats[2], h->dilation.data()};
#if defined(__x86_64__)
        if (isa == AVX512) h->net = avx512::make(h->shape, arrays, act_scale);
        else if (isa == AVX2) h->net = avx2::make(h->shape, arrays, act_scale);
        else
#endif
            h->net = portable::make(h->shape, arrays, act_scale);
        return h;
    } catch (const std::bad_alloc&) {
        return nullptr;
    }
}
S2S_API void s2s_wavenet_net_free(void* net) { delete static_cast<Handle*>(net); }

// Worker w takes the streams first[w] .. first[w + 1] - 1, whose `lengths` must not rise.
S2S_API void* s2s_wavenet_session(void* net, int workers, const int32_t* first, const int64_t* lengths) {
    try {
        Session* s = new Session;
        for (int w = 0; w < workers; w++) {
            s->first.push_back(first[w]);
            s->workers.push_back(static_cast<Handle*>(net)->net->worker(first[w + 1] - first[w], lengths + first[w]));
        }
        s->done.assign(workers * 8, 0);  // a cache line each
        return s;
    } catch (const std::bad_alloc&) {
        return nullptr;
    }
}
S2S_API void s2s_wavenet_session_free(void* session) { delete static_cast<Session*>(session); }
S2S_API void s2s_wavenet_stop(void* session) { static_cast<Session*>(session)->stop = 1; }

// Samples made so far, over all streams. May be read while another thread runs.
S2S_API int64_t s2s_wavenet_done(void* session) {
    const Session* s = static_cast<Session*>(session);
    int64_t sum = 0;
    for (size_t w = 0; w < s->workers.size(); w++) sum += const_cast<const volatile int64_t&>(s->done[w * 8]);
    return sum;
}

// Go on by `steps` samples. Returns 0 when asked to stop, else 1.
S2S_API int s2s_wavenet_run(void* net, void* session, int64_t steps, const float* cond, int64_t cond_columns, int64_t cond_from,
                            const float* noise, const float* teacher, float* out, float* logits, float* seen) {
    Session* s = static_cast<Session*>(session);
    const Shape& shape = static_cast<Handle*>(net)->shape;
    const auto work = [&](size_t w) {
        const int64_t b = s->first[w];
        const auto at = [&](auto* p, int64_t per_stream) { return p ? p + b * per_stream : p; };
        const Chunk chunk{steps, at(cond, cond_columns * shape.cond), cond_columns, cond_from, at(noise, steps * shape.noise),
                          at(teacher, steps), at(out, steps), at(logits, steps * shape.out), seen};
        s->workers[w]->run(chunk, &s->stop, &s->done[w * 8]);
    };
    std::vector<std::thread> threads;
    for (size_t w = 1; w < s->workers.size(); w++) threads.emplace_back(work, w);
    work(0);
    for (std::thread& thread : threads) thread.join();
    return s->stop == 0;
}

// Does `rounds` rounds of multiply-adds in registers; returns how many operations that was.
S2S_API int64_t s2s_wavenet_churn(int isa, int quantised, int64_t rounds) {
#if defined(__x86_64__)
    if (isa == AVX512) return avx512::churn_ops(quantised, rounds);
    if (isa == AVX2) return avx2::churn_ops(quantised, rounds);
#endif
    return portable::churn_ops(quantised, rounds);
}

#endif
