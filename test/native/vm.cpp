// Compares the VM of map with the plain evaluator, element by element, on random programs, shapes and dtypes.
//
//   vm random SEED COUNT    COUNT random expressions: whole, in pieces and by the evaluator.
//                           Checks dirty ranges by brute force.
//                           Prints a hash of all results, so that builds can be compared.
//   vm fuzz SEED COUNT      COUNT damaged or random blobs: refused, or run without harm
//   vm integers             all pairs of 8-bit operands, edge cases of wider ones, against 128-bit arithmetic
//   vm divisions            // and % of floats, against their definition with the platform's fmod
//   vm casts                every dtype to every other, against arithmetic in long double
//
// Prints failures, and exits with status 1 if there are any. Spawned by vm.test.ts.
#include "vm_cases.h"

// ---- damaged blobs ----------------------------------------------------------------------------------------

static void fuzz(u64 first, u32 count) {
  u32 accepted = 0;
  for (u32 k = 0; k < count; k++) {
    start(first + k);
    Case c;
    randomBlob(c.blob, 1 + below(4), 1 + below(12));
    u8* bytes = reinterpret_cast<u8*>(c.blob.bytes.data());
    const u32 style = below(4);
    for (u32 i = 0, n = 1 + below(3); i < n && style != 3; i++) {
      bytes[below(c.blob.size)] = style == 0 ? u8(draw() >> 56) : u8(below(16));
    }
    if (style == 3) c.blob.size = below(c.blob.size + 64) & (below(2) == 0 ? ~7u : ~0u);
    // A copy of exact size, so that a sanitizer detects reads past the end.
    u8* exact = static_cast<u8*>(aligned_alloc(8, c.blob.size == 0 ? 8 : (c.blob.size + 7) & ~7u));
    memset(exact, 0, c.blob.size == 0 ? 8 : (c.blob.size + 7) & ~7u);
    memcpy(exact, bytes, c.blob.size < c.blob.bytes.size() * 8 ? c.blob.size : c.blob.bytes.size() * 8);
    randomShapes(c, u8(below(DTYPE_COUNT)));
    c.step.params = exact;
    c.step.paramBytes = c.blob.size;
    const int32_t status = prepareMap(c.step);
    if (status == MMSB_OK) {
      accepted++;
      u8* scratch = static_cast<u8*>(aligned_alloc(64, (c.step.scratchBytes + 63) & ~63u));
      std::vector<u8> to(c.out.page.bytes + 1);
      computeRun(c, 0, c.out.page.elements, to.data(), scratch);
      free(scratch);
      releaseMap(c.step);
    } else if (status != MMSB_ERR_ARGUMENT && status != MMSB_ERR_UNSUPPORTED) {
      REPORT("status %d\n", status);
    }
    free(exact);
  }
  printf("accepted %u of %u\n", accepted, count);
}

// ---- integers and casts against wide arithmetic -----------------------------------------------------------

typedef __int128 wide;

static u32 widthOf(u8 dtype) { return 8 * dtypeBytes(dtype); }
static bool signedOf(u8 dtype) { return dtype == I8 || dtype == I16 || dtype == I32 || dtype == I64; }
static wide valueOfBits(u8 dtype, u64 bits) {
  if (widthOf(dtype) == 64) return signedOf(dtype) ? wide(i64(bits)) : wide(bits);
  const u64 half = 1ull << (widthOf(dtype) - 1);
  return signedOf(dtype) && (bits & half) != 0 ? wide(bits) - wide(2 * half) : wide(bits);
}
static u64 wrapped(u8 dtype, wide x) { return widthOf(dtype) == 64 ? u64(x) : u64(x) & ((1ull << widthOf(dtype)) - 1); }

static u64 integerResult(u8 op, u8 dtype, u64 aBits, u64 bBits) {
  const wide a = valueOfBits(dtype, aBits), b = valueOfBits(dtype, bBits);
  const u32 width = widthOf(dtype);
  switch (op) {
    case IR_ADD: return wrapped(dtype, a + b);
    case IR_SUB: return wrapped(dtype, a - b);
    case IR_MUL: return u64(wrapped(dtype, wide(u64(a) * u64(b))));
    case IR_FLOORDIV: {
      if (b == 0) return 0;
      wide q = a / b;
      if (q * b != a && (a < 0) != (b < 0)) q--;
      return wrapped(dtype, q);
    }
    case IR_MOD: {
      if (b == 0) return 0;
      wide r = a % b;
      if (r != 0 && (r < 0) != (b < 0)) r += b;
      return wrapped(dtype, r);
    }
    case IR_POW: {
      if (b < 0) return wrapped(dtype, a == 1 ? 1 : a == -1 ? (b % 2 == 0 ? 1 : -1) : 0);
      u64 r = 1, base = u64(a);
      for (u64 left = u64(b); left != 0; left >>= 1, base *= base) r *= (left & 1) != 0 ? base : 1;
      return wrapped(dtype, wide(r));
    }
    case IR_SHL: return b < 0 || b >= width ? 0 : wrapped(dtype, wide(u64(a) << u64(b)));
    case IR_SHR: {
      const bool out = b < 0 || b >= width;
      return out ? wrapped(dtype, a < 0 ? -1 : 0) : wrapped(dtype, a >> int(b));
    }
    case IR_MIN: return wrapped(dtype, a < b ? a : b);
    case IR_MAX: return wrapped(dtype, a > b ? a : b);
    case IR_NEG: return wrapped(dtype, -a);
    case IR_ABS: return wrapped(dtype, a < 0 ? -a : a);
    default: return wrapped(dtype, a > 0 ? 1 : a < 0 ? -1 : 0);
  }
}

// Runs one binary (or unary) operation on arrays through map.
static std::vector<u64> runOp(u8 op, u8 dtype, u8 outDtype, const std::vector<u64>& a, const std::vector<u64>& b) {
  Case c;
  c.blob.inputs = {dtype, dtype};
  c.blob.code = {IrInst{IR_INPUT, dtype, 0, 0, 0, 0}, IrInst{IR_INPUT, dtype, 0, 0, 0, 1}};
  const bool binary = irFacts(op).arity == 2;
  c.blob.code.push_back(IrInst{op, op == IR_CAST ? outDtype : dtype, 0, u16(binary ? 1 : 0), 0, 0});
  encode(c.blob);
  const u32 n = u32(a.size());
  makePage(c.out, outDtype, 1, &n);
  c.inputs.resize(2);
  for (u32 i = 0; i < 2; i++) {
    makePage(c.inputs[i], dtype, 1, &n);
    for (u32 e = 0; e < n; e++) setElement(c.inputs[i].page, e, i == 0 ? a[e] : b[e]);
    c.pages.push_back(&c.inputs[i].page);
  }
  memset(&c.step, 0, sizeof c.step);
  c.step.out = &c.out.page;
  c.step.inputs = c.pages.data();
  c.step.inputCount = 2;
  c.step.params = reinterpret_cast<const u8*>(c.blob.bytes.data());
  c.step.paramBytes = c.blob.size;
  std::vector<u64> results(n);
  if (prepareMap(c.step) != MMSB_OK) {
    REPORT("op %u refused: %s\n", op, lastError);
    return results;
  }
  u8* scratch = static_cast<u8*>(aligned_alloc(64, (c.step.scratchBytes + 63) & ~63u));
  std::vector<u8> to(c.out.page.bytes + 1);
  computeRun(c, 0, n, to.data(), scratch);
  for (u32 e = 0; e < n; e++) results[e] = elementBits(to.data(), outDtype, e);
  free(scratch);
  releaseMap(c.step);
  return results;
}

static void integers() {
  const u8 ops[] = {IR_ADD, IR_SUB, IR_MUL, IR_FLOORDIV, IR_MOD, IR_POW, IR_SHL,
                    IR_SHR, IR_MIN, IR_MAX, IR_NEG,      IR_ABS, IR_SIGN};
  for (u8 dtype = U8; dtype <= I64; dtype++) {
    std::vector<u64> a, b;
    const u32 width = widthOf(dtype);
    if (width == 8) {
      for (u32 k = 0; k < 65536; k++) a.push_back(k >> 8), b.push_back(k & 255);
    } else {
      std::vector<u64> edges;
      for (u32 bit = 0; bit < width; bit += 1) {
        edges.push_back(1ull << bit), edges.push_back((1ull << bit) - 1),
            edges.push_back(wrapped(dtype, -wide(1ull << bit)));
      }
      for (u64 x : {3ull, 5ull, 7ull, 10ull, 31ull, 33ull, 63ull, 64ull, 65ull}) {
        edges.push_back(x), edges.push_back(wrapped(dtype, -wide(x)));
      }
      for (u64 x : edges) {
        for (u64 y : edges) a.push_back(x), b.push_back(y);
      }
      start(dtype);
      for (u32 k = 0; k < 20000; k++) {
        a.push_back(wrapped(dtype, wide(draw()))), b.push_back(wrapped(dtype, wide(draw() >> (draw() & 63))));
      }
    }
    for (u8 op : ops) {
      const std::vector<u64> got = runOp(op, dtype, dtype, a, b);
      for (u32 k = 0; k < a.size(); k++) {
        const u64 wanted = integerResult(op, dtype, a[k], b[k]);
        if (got[k] != wanted) {
          REPORT("op %u dtype %u: %llx, %llx gives %llx, not %llx\n", op, dtype, static_cast<unsigned long long>(a[k]),
                 static_cast<unsigned long long>(b[k]), static_cast<unsigned long long>(got[k]),
                 static_cast<unsigned long long>(wanted));
        }
      }
    }
  }
}

// The 80-bit format of x86 holds every value of every dtype.
static long double exactValue(u8 dtype, u64 bits) {
  if (dtype == F32) return f32Of(u32(bits));
  if (dtype == F64) return f64Of(bits);
  if (dtype == BOOL) return bits;
  return static_cast<long double>(valueOfBits(dtype, bits));
}
static u64 castResult(u8 to, u8 from, u64 bits) {
  const long double x = exactValue(from, bits);
  if (to == BOOL) return x != 0;
  if (to == F32) return bitsOf(canonical(f32(x)));
  if (to == F64) return bitsOf(canonical(f64(x)));
  if (x != x) return 0;
  const u32 width = widthOf(to);
  const long double top = ldexpl(1, int(width) - (signedOf(to) ? 1 : 0)), bottom = signedOf(to) ? -top : 0;
  if (x >= top) return wrapped(to, wide(top) - 1);
  if (x <= bottom) return wrapped(to, wide(bottom));
  return wrapped(to, wide(x));
}

static void casts() {
  for (u8 from = BOOL; from < DTYPE_COUNT; from++) {
    std::vector<u64> a;
    start(from);
    if (from == BOOL) a = {0, 1};
    for (u32 k = 0; k < 3000 && from != BOOL; k++) a.push_back(randomElement(from));
    for (int bit = 0; bit < 70 && isFloatDtype(from); bit++) {
      for (double x : {0.0, -1.0, 1.0, -0.5, 0.5}) {
        for (double sign : {1.0, -1.0}) {
          const double value = sign * (ldexp(1.0, bit) + x);
          a.push_back(from == F32 ? u64(bitsOf(f32(value))) : bitsOf(value));
          if (from == F64) a.push_back(bitsOf(nextafter(value, 0.0)));
        }
      }
    }
    for (u8 to = BOOL; to < DTYPE_COUNT; to++) {
      const std::vector<u64> got = runOp(IR_CAST, from, to, a, a);
      for (u32 k = 0; k < a.size(); k++) {
        const u64 wanted = castResult(to, from, a[k]);
        if (got[k] != wanted) {
          REPORT("cast of %llx from %u to %u gives %llx, not %llx\n", static_cast<unsigned long long>(a[k]), from, to,
                 static_cast<unsigned long long>(got[k]), static_cast<unsigned long long>(wanted));
        }
      }
    }
  }
}

// The definition in Python and NumPy, with the platform's exact fmod.
template <class T>
static T divisionResult(u8 op, T a, T b) {
  if (b == 0) return op == IR_MOD ? T(MMSB_NAN) : a / b;
  T r = T(fmod(f64(a), f64(b)));
  T q = (a - r) / b;
  if (r != 0) {
    if ((b < 0) != (r < 0)) r += b, q -= 1;
  } else {
    r = T(copysign(0.0, f64(b)));
  }
  if (op == IR_MOD) return r;
  if (q == 0) return T(copysign(0.0, f64(a / b)));
  const T whole = T(floor(f64(q)));
  return q - whole > T(0.5) ? whole + 1 : whole;
}

template <class T>
static void divisionsOf(u8 dtype) {
  std::vector<u64> a, b;
  start(dtype);
  for (u32 k = 0; k < 200000; k++) {
    const u64 x = draw(), y = draw();
    a.push_back(randomElement(dtype)), b.push_back(randomElement(dtype));
    // Operands near multiples, with quotients of every size.
    const T divisor = T(f64(x >> 11) * 0x1p-40 + 1), quotient = T(f64(i64(y) >> (y & 63)));
    const T multiple = divisor * quotient;
    const T near = (x & 1) != 0 ? T(nextafter(multiple, T(0))) : multiple;
    a.push_back(laneTo(near)), b.push_back(laneTo((x & 2) != 0 ? divisor : -divisor));
  }
  for (u8 op : {IR_MOD, IR_FLOORDIV}) {
    const std::vector<u64> got = runOp(op, dtype, dtype, a, b);
    for (u32 k = 0; k < a.size(); k++) {
      const u64 wanted = laneTo(canonical(divisionResult(op, laneFrom<T>(a[k]), laneFrom<T>(b[k]))));
      if (got[k] != wanted) {
        REPORT("op %u dtype %u: %a, %a gives %a, not %a\n", op, dtype, f64(laneFrom<T>(a[k])), f64(laneFrom<T>(b[k])),
               f64(laneFrom<T>(got[k])), f64(laneFrom<T>(wanted)));
      }
    }
  }
}
static void divisions() {
  divisionsOf<f32>(F32);
  divisionsOf<f64>(F64);
}

int main(int argc, char** argv) {
  const char* mode = argc > 1 ? argv[1] : "";
  const u64 first = argc > 2 ? strtoull(argv[2], nullptr, 10) : 0;
  const u32 count = argc > 3 ? u32(strtoull(argv[3], nullptr, 10)) : 0;
  if (strcmp(mode, "random") == 0) randomPrograms(first, count);
  else if (strcmp(mode, "fuzz") == 0) fuzz(first, count);
  else if (strcmp(mode, "integers") == 0) integers();
  else if (strcmp(mode, "casts") == 0) casts();
  else if (strcmp(mode, "divisions") == 0) divisions();
  else return 2;
  printf("failures %d\n", failures);
  return failures != 0;
}
