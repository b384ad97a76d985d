/* A draft's decoder layers in 4-bit weights, all of them in one call.

A small model's step is over in a few milliseconds, and as separate kernels most of that goes into starting them and
into unpacking weights to floats. Here activations are rounded to 8 bits in groups of 32, so that a product is whole
numbers (VNNI), and threads meet six times a layer. `models/fused.py` says the same in torch.

Weights: a block is 16 rows of one group of 32 columns, `BLOCK` bytes: 16 scales and 16 offsets in bfloat16,
then four vectors of levels; weight = level * scale + offset, levels 0 … 15. In vector j, byte t of lane r holds
columns 8 j + t (low half) and 8 j + 4 + t (high half) of row r.

A row is computed the same way however many are computed beside it. */

#include <immintrin.h>
#include <math.h>
#include <omp.h>
#include <stdint.h>
#include <stdlib.h>

enum { LANES = 16, GROUP = 32, BLOCK = 320, LEVELS = 64, TILE = 8 };

typedef uint16_t bf16;

typedef struct {
    const uint8_t *blocks; /* [rows / 16, columns / 32, BLOCK] */
    const float *bias;     /* [rows], or none */
    int64_t rows, columns;
} Matrix;

typedef struct {
    Matrix qkv, out, gate_up, down;
    const float *before_attention, *before_mlp; /* [hidden] */
    const float *q_norm, *k_norm;               /* [head_dim], or none */
    bf16 *keys, *values;                        /* [slots, kv_heads, capacity, head_dim] */
} Layer;

typedef struct {
    int64_t heads, kv_heads, head_dim, hidden;
    float eps;
} Shape;

/* One forward: q tokens in each of n rows; the first of row b is written to slot starts[b] of cache row first + b. */
typedef struct {
    int64_t n, q, first, width, capacity;
    const int64_t *starts;
    const bf16 *mask;       /* additive [n, q, width]; none: every slot is seen */
    const float *cos, *sin; /* [n * q, head_dim] */
} Window;

/* Activations in 8 bits: value = level * scale, and scale times the sum of a group's levels, for the offsets. */
typedef struct {
    int8_t *levels;      /* [m, columns] */
    float *scales, *sums; /* [m, columns / 32] */
    int64_t columns;
} Rounded;

static inline float widened(bf16 x) {
    union { uint32_t bits; float value; } u = {(uint32_t)x << 16};
    return u.value;
}

static inline bf16 narrowed(float x) {
    union { float value; uint32_t bits; } u = {x};
    return (bf16)((u.bits + 0x7fff + (u.bits >> 16 & 1)) >> 16);
}

static inline __m512 wide_lanes(const uint8_t *at) {
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256((const void *)at)), 16));
}

static void normed(const float *x, const float *weight, float eps, int64_t size, float *y) {
    float squares = 0;
    for (int64_t i = 0; i < size; i++) squares += x[i] * x[i];
    const float scale = 1 / sqrtf(squares / size + eps);
    for (int64_t i = 0; i < size; i++) y[i] = x[i] * scale * weight[i];
}

static void round_row(const float *x, const Rounded *to, int64_t row) {
    const int64_t groups = to->columns / GROUP;
    for (int64_t g = 0; g < groups; g++) {
        const float *values = x + g * GROUP;
        int8_t *levels = to->levels + row * to->columns + g * GROUP;
        float most = 0;
        for (int i = 0; i < GROUP; i++) most = fmaxf(most, fabsf(values[i]));
        const float scale = most / 127, by = most > 0 ? 127 / most : 0;
        int sum = 0;
        for (int i = 0; i < GROUP; i++) {
            const int level = (int)nearbyintf(values[i] * by);
            levels[i] = (int8_t)level;
            sum += level;
        }
        to->scales[row * groups + g] = scale;
        to->sums[row * groups + g] = scale * sum;
    }
}

/* Sixteen rows of the weight times `tile` rows of x, from `row` on: out [tile, 16]. */
static inline __attribute__((always_inline)) void tile_product(
    const uint8_t *block, const Rounded *x, int64_t row, const int tile, float out[TILE][LANES]) {
    const int64_t groups = x->columns / GROUP;
    const __m512i low_half = _mm512_set1_epi8(15);
    __m512 total[TILE];
    for (int r = 0; r < tile; r++) total[r] = _mm512_setzero_ps();
    for (int64_t g = 0; g < groups; g++, block += BLOCK) {
        __m512i low[4], high[4];
        for (int j = 0; j < 4; j++) {
            /* A stored weight is mapped where its file has it, on no whole vector. */
            const __m512i both = _mm512_loadu_si512(block + LEVELS + 64 * j);
            low[j] = _mm512_and_si512(both, low_half);
            high[j] = _mm512_and_si512(_mm512_srli_epi16(both, 4), low_half);
        }
        const __m512 scales = wide_lanes(block), offsets = wide_lanes(block + LEVELS / 2);
        for (int r = 0; r < tile; r++) {
            const int32_t *fours = (const int32_t *)(x->levels + (row + r) * x->columns + g * GROUP);
            __m512i even = _mm512_setzero_si512(), odd = _mm512_setzero_si512();
            for (int j = 0; j < 4; j++) {
                even = _mm512_dpbusd_epi32(even, low[j], _mm512_set1_epi32(fours[2 * j]));
                odd = _mm512_dpbusd_epi32(odd, high[j], _mm512_set1_epi32(fours[2 * j + 1]));
            }
            const __m512 sum = _mm512_cvtepi32_ps(_mm512_add_epi32(even, odd));
            const __m512 by = _mm512_mul_ps(scales, _mm512_set1_ps(x->scales[(row + r) * groups + g]));
            total[r] = _mm512_fmadd_ps(offsets, _mm512_set1_ps(x->sums[(row + r) * groups + g]), total[r]);
            total[r] = _mm512_fmadd_ps(sum, by, total[r]);
        }
    }
    for (int r = 0; r < tile; r++) _mm512_storeu_ps(out[r], total[r]);
}

/* As many rows as there are registers for; returns how many. The compiler makes a loop for each number. */
static int some_product(const uint8_t *block, const Rounded *x, int64_t row, int64_t m, float out[TILE][LANES]) {
    switch (m - row) {
    case 1: tile_product(block, x, row, 1, out); return 1;
    case 2: tile_product(block, x, row, 2, out); return 2;
    case 3: tile_product(block, x, row, 3, out); return 3;
    case 4: tile_product(block, x, row, 4, out); return 4;
    case 5: tile_product(block, x, row, 5, out); return 5;
    case 6: tile_product(block, x, row, 6, out); return 6;
    case 7: tile_product(block, x, row, 7, out); return 7;
    default: tile_product(block, x, row, TILE, out); return TILE;
    }
}

/* A thread's share of `count` things. */
static inline int64_t share(int64_t count, int part) {
    return count * part / omp_get_num_threads();
}

/* y [m, rows] (+)= x weight^T + bias, this thread's rows of the weight. */
static void my_product(const Matrix *w, const Rounded *x, int64_t m, float *y, int add) {
    const int me = omp_get_thread_num();
    const int64_t blocks = w->rows / LANES, step = w->columns / GROUP * BLOCK;
    float out[TILE][LANES];
    for (int64_t b = share(blocks, me); b < share(blocks, me + 1); b++)
        for (int64_t row = 0; row < m;) {
            const int done = some_product(w->blocks + b * step, x, row, m, out);
            for (int r = 0; r < done; r++, row++) {
                float *to = y + row * w->rows + b * LANES;
                for (int i = 0; i < LANES; i++)
                    to[i] = out[r][i] + (add ? to[i] : 0) + (w->bias ? w->bias[b * LANES + i] : 0);
            }
        }
}

/* y [m, inner] = silu(x gate^T) * (x up^T), this thread's columns; gate lies above up in one weight. */
static void my_gated_product(const Matrix *w, const Rounded *x, int64_t m, float *y) {
    const int me = omp_get_thread_num();
    const int64_t inner = w->rows / 2, blocks = inner / LANES, step = w->columns / GROUP * BLOCK;
    float gate[TILE][LANES], up[TILE][LANES];
    for (int64_t b = share(blocks, me); b < share(blocks, me + 1); b++)
        for (int64_t row = 0; row < m;) {
            some_product(w->blocks + b * step, x, row, m, gate);
            const int done = some_product(w->blocks + (blocks + b) * step, x, row, m, up);
            for (int r = 0; r < done; r++, row++) {
                float *to = y + row * inner + b * LANES;
                for (int i = 0; i < LANES; i++) to[i] = gate[r][i] / (1 + expf(-gate[r][i])) * up[r][i];
            }
        }
}

static void turn(float *x, const float *cos, const float *sin, int64_t size) {
    for (int64_t i = 0; i < size / 2; i++) {
        const float low = x[i], high = x[i + size / 2];
        x[i] = low * cos[i] - high * sin[i];
        x[i + size / 2] = high * cos[i + size / 2] + low * sin[i + size / 2];
    }
}

static bf16 *slot_of(bf16 *tensor, const Shape *s, const Window *w, int64_t b, int64_t head, int64_t slot) {
    return tensor + (((w->first + b) * s->kv_heads + head) * w->capacity + slot) * s->head_dim;
}

/* Norm and rotate this thread's heads of the queries and keys in qkv [m, …]; keys and values go to their slots. */
static void my_heads(const Shape *s, const Layer *l, const Window *w, float *qkv) {
    const int me = omp_get_thread_num();
    const int64_t d = s->head_dim, all = s->heads + 2 * s->kv_heads, m = w->n * w->q;
    for (int64_t i = share(m * all, me); i < share(m * all, me + 1); i++) {
        const int64_t row = i / all, b = row / w->q, slot = w->starts[b] + row % w->q;
        const int64_t key = i % all - s->heads, value = key - s->kv_heads;
        float *x = qkv + i * d;
        const float *norm = key < 0 ? l->q_norm : l->k_norm;
        if (value < 0) {
            if (norm) normed(x, norm, s->eps, d, x);
            turn(x, w->cos + row * d, w->sin + row * d, d);
        }
        if (key < 0) continue;
        bf16 *to = slot_of(value < 0 ? l->keys : l->values, s, w, b, value < 0 ? key : value, slot);
        for (int64_t t = 0; t < d; t++) to[t] = narrowed(x[t]);
    }
}

/* One query over the slots it sees: y [head_dim]. `scores` has room for `width`, in whole vectors. Slots that are
hidden may hold anything. */
static void attend(const Shape *s, const Window *w, const float *query, const bf16 *keys, const bf16 *values,
                   const bf16 *mask, float *scores, float *y) {
    const int64_t d = s->head_dim, padded = (w->width + LANES - 1) / LANES * LANES;
    const float hidden = -1e30f, scale = 1 / sqrtf((float)d);
    float most = hidden, sum = 0;
    for (int64_t i = 0; i < padded; i++) {
        const float extra = i >= w->width ? hidden : mask ? widened(mask[i]) : 0;
        scores[i] = hidden;
        if (extra <= hidden) continue;
        float dot = 0;
        for (int64_t t = 0; t < d; t++) dot += query[t] * widened(keys[i * d + t]);
        scores[i] = dot * scale + extra;
        most = fmaxf(most, scores[i]);
    }
    for (int64_t i = 0; i < padded; i++) scores[i] = scores[i] <= hidden ? 0 : expf(scores[i] - most);
    for (int64_t i = 0; i < padded; i++) sum += scores[i];
    for (int64_t t = 0; t < d; t++) y[t] = 0;
    for (int64_t i = 0; i < w->width; i++) {
        const float weight = scores[i];
        if (weight == 0) continue;
        for (int64_t t = 0; t < d; t++) y[t] += weight * widened(values[i * d + t]);
    }
    for (int64_t t = 0; t < d; t++) y[t] /= sum;
}

/* mixed [m, heads * head_dim], this thread's queries. */
static void my_attention(const Shape *s, const Layer *l, const Window *w, const float *qkv, float *scores,
                         float *mixed) {
    const int me = omp_get_thread_num();
    const int64_t d = s->head_dim, m = w->n * w->q, all = s->heads + 2 * s->kv_heads;
    for (int64_t i = share(m * s->heads, me); i < share(m * s->heads, me + 1); i++) {
        const int64_t row = i / s->heads, head = i % s->heads, b = row / w->q;
        const int64_t of = head / (s->heads / s->kv_heads);
        attend(s, w, qkv + (row * all + head) * d, slot_of(l->keys, s, w, b, of, 0), slot_of(l->values, s, w, b, of, 0),
               w->mask ? w->mask + row * w->width : 0, scores, mixed + i * d);
    }
}

static Rounded room_for(int64_t m, int64_t columns, int8_t *levels, float *scales) {
    return (Rounded){levels, scales, scales + m * (columns / GROUP), columns};
}

/* All rows of x [m, columns], normed first if there is a norm. Each thread rounds for itself: that is quicker than to
meet. */
static void round_all(const Rounded *to, const float *x, int64_t m, const float *norm, float eps, float *row) {
    for (int64_t i = 0; i < m; i++) {
        if (norm) normed(x + i * to->columns, norm, eps, to->columns, row);
        round_row(norm ? row : x + i * to->columns, to, i);
    }
}

/* Bytes, in whole vectors. */
static inline size_t whole(size_t bytes) {
    return (bytes + 63) / 64 * 64;
}

static inline void *next(uint8_t **at, size_t bytes) {
    void *here = *at;
    *at += whole(bytes);
    return here;
}

static inline int64_t larger(int64_t a, int64_t b) {
    return a > b ? a : b;
}

/* x [m, hidden], in and out, through all layers. Returns 0, or 1 if there is no memory. */
int run_layers(const Shape *s, const Layer *layers, int64_t count, const Window *w, float *x, int threads) {
    const int64_t m = w->n * w->q, wide = (s->heads + 2 * s->kv_heads) * s->head_dim;
    const int64_t mixed_size = s->heads * s->head_dim, inner = layers[0].down.columns;
    const int64_t most = larger(inner, larger(mixed_size, s->hidden)), width = w->width + LANES;
    const size_t float_row = sizeof(float) * m;
    const size_t shared = whole(float_row * wide) + whole(float_row * mixed_size) + whole(float_row * inner);
    const size_t own = whole(m * most) + whole(2 * float_row * (most / GROUP)) + whole(sizeof(float) * width) +
                       whole(sizeof(float) * s->hidden);
    uint8_t *room = aligned_alloc(64, shared + own * threads), *at = room;
    if (!room) return 1;
    float *qkv = next(&at, float_row * wide), *mixed = next(&at, float_row * mixed_size);
    float *gated = next(&at, float_row * inner);
#pragma omp parallel num_threads(threads)
    {
        uint8_t *mine = at + own * omp_get_thread_num();
        int8_t *levels = next(&mine, m * most);
        float *scales = next(&mine, 2 * float_row * (most / GROUP));
        float *scores = next(&mine, sizeof(float) * width), *row = next(&mine, sizeof(float) * s->hidden);
        const Rounded of_hidden = room_for(m, s->hidden, levels, scales);
        const Rounded of_mixed = room_for(m, mixed_size, levels, scales);
        const Rounded of_gated = room_for(m, inner, levels, scales);
        for (const Layer *l = layers; l < layers + count; l++) {
            round_all(&of_hidden, x, m, l->before_attention, s->eps, row);
            my_product(&l->qkv, &of_hidden, m, qkv, 0);
#pragma omp barrier
            my_heads(s, l, w, qkv);
#pragma omp barrier
            my_attention(s, l, w, qkv, scores, mixed);
#pragma omp barrier
            round_all(&of_mixed, mixed, m, 0, 0, row);
            my_product(&l->out, &of_mixed, m, x, 1);
#pragma omp barrier
            round_all(&of_hidden, x, m, l->before_mlp, s->eps, row);
            my_gated_product(&l->gate_up, &of_hidden, m, gated);
#pragma omp barrier
            round_all(&of_gated, gated, m, 0, 0, row);
            my_product(&l->down, &of_gated, m, x, 1);
#pragma omp barrier
        }
    }
    free(room);
    return 0;
}

/* y [m, rows] = x weight^T + bias. Returns as above. */
int run_product(const Matrix *w, const float *x, int64_t m, float *y, int threads) {
    const size_t scales_size = whole(sizeof(float) * 2 * m * (w->columns / GROUP));
    const size_t own = whole(m * w->columns) + scales_size;
    uint8_t *room = aligned_alloc(64, own * threads);
    if (!room) return 1;
#pragma omp parallel num_threads(threads)
    {
        uint8_t *mine = room + own * omp_get_thread_num();
        int8_t *levels = next(&mine, m * w->columns);
        float *scales = next(&mine, scales_size);
        const Rounded rounded = room_for(m, w->columns, levels, scales);
        round_all(&rounded, x, m, 0, 0, 0);
        my_product(w, &rounded, m, y, 0);
    }
    free(room);
    return 0;
}

/* --- Rounding weights to blocks: sixteen groups at a time, one a lane. */

static inline __m512 nearest(__m512 x) {
    return _mm512_roundscale_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}

static inline __m512 all(float x) {
    return _mm512_set1_ps(x);
}

/* a / b, or 0 where b is not positive. */
static inline __m512 ratio(__m512 a, __m512 b) {
    return _mm512_maskz_div_ps(_mm512_cmp_ps_mask(b, all(1e-30f), _CMP_GT_OQ), a, b);
}

/* To bfloat16 and back. */
static inline __m512 as_stored(__m512 x) {
    const __m512i bits = _mm512_castps_si512(x), odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
    const __m512i up = _mm512_add_epi32(bits, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff)));
    return _mm512_castsi512_ps(_mm512_and_si512(up, _mm512_set1_epi32((int)0xffff0000)));
}

static inline void store_lanes(uint8_t *at, __m512 x) {
    _mm256_storeu_si256((void *)at, _mm512_cvtepi32_epi16(_mm512_srli_epi32(_mm512_castps_si512(x), 16)));
}

static inline __m512 level_by(__m512 weight, __m512 offset, __m512 by) {
    return _mm512_min_ps(_mm512_max_ps(nearest((weight - offset) * by), all(0)), all(15));
}

/* The line through levels that are `steps` to the range: least squares. */
static void line_by(const __m512 *weight, __m512 low, __m512 high, float steps, __m512 *scale, __m512 *offset) {
    const __m512 by = ratio(all(steps), high - low);
    __m512 sum = all(0), squares = all(0), values = all(0), products = all(0);
    for (int k = 0; k < GROUP; k++) {
        const __m512 level = level_by(weight[k], low, by);
        sum += level;
        squares += level * level;
        values += weight[k];
        products += level * weight[k];
    }
    *scale = ratio(all(GROUP) * products - sum * values, all(GROUP) * squares - sum * sum);
    *offset = (values - *scale * sum) / all(GROUP);
}

/* Scales and offsets of sixteen groups: of the lines for steps a little wider to a little narrower than the range asks
for, and of plain rounding between its ends, the one with the least squared error (llama.cpp searches so). */
static void fit(const __m512 *weight, __m512 *best_scale, __m512 *best_offset) {
    enum { TRIES = 8 };
    __m512 low = weight[0], high = weight[0], least = all(0);
    for (int k = 1; k < GROUP; k++) low = _mm512_min_ps(low, weight[k]), high = _mm512_max_ps(high, weight[k]);
    for (int try = 0; try <= TRIES; try++) {
        __m512 scale = (high - low) / all(15), offset = low, error = all(0);
        if (try > 0) line_by(weight, low, high, 14 + 3.0f * (try - 1) / (TRIES - 1), &scale, &offset);
        scale = as_stored(scale), offset = as_stored(offset);
        const __m512 by = ratio(all(1), scale);
        for (int k = 0; k < GROUP; k++) {
            const __m512 off = level_by(weight[k], offset, by) * scale + offset - weight[k];
            error += off * off;
        }
        __mmask16 better = 0xffff;
        if (try > 0)
            better = _mm512_cmp_ps_mask(error, least, _CMP_LT_OQ) & _mm512_cmp_ps_mask(scale, all(0), _CMP_GT_OQ);
        least = _mm512_mask_mov_ps(least, better, error);
        *best_scale = _mm512_mask_mov_ps(*best_scale, better, scale);
        *best_offset = _mm512_mask_mov_ps(*best_offset, better, offset);
    }
}

/* Weights [rows, columns], rows and columns in whole blocks, to blocks. */
void pack(const bf16 *weight, int64_t rows, int64_t columns, uint8_t *blocks, int threads) {
    const int64_t groups = columns / GROUP;
#pragma omp parallel for num_threads(threads)
    for (int64_t b = 0; b < rows / LANES; b++)
        for (int64_t g = 0; g < groups; g++) {
            union { __m512 lanes[GROUP]; float at[GROUP][LANES]; } some;
            uint8_t *to = blocks + (b * groups + g) * BLOCK;
            for (int r = 0; r < LANES; r++)
                for (int k = 0; k < GROUP; k++) some.at[k][r] = widened(weight[(b * LANES + r) * columns + g * GROUP + k]);
            __m512 scale = all(0), offset = all(0);
            fit(some.lanes, &scale, &offset);
            store_lanes(to, scale);
            store_lanes(to + LEVELS / 2, offset);
            const __m512 by = ratio(all(1), scale);
            for (int k = 0; k < GROUP; k++) some.lanes[k] = level_by(some.lanes[k], offset, by);
            for (int i = 0; i < 256; i++) {
                const int k = i / 64 * 8 + i % 4, r = i % 64 / 4;
                to[LEVELS + i] = (uint8_t)((int)some.at[k][r] | (int)some.at[k + 4][r] << 4);
            }
        }
}
