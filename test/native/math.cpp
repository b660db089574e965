// Measures the error of the functions in math.cuh and trig.cuh against libquadmath (113-bit significands),
// and prints hashes of their bits, to compare builds.
//
//   math error FUNCTION f32 STRIDE    every STRIDE-th of the 2^32 bit patterns
//   math all FUNCTION                 all 2^32 bit patterns, against the platform's f64 functions
//   math error FUNCTION f64 COUNT     COUNT random arguments in each of several ranges
//   math edges                        special cases of C99 Annex F; prints the failures
//   math hash COUNT                   FUNCTION DTYPE HASH of the results for COUNT pseudo-random arguments
//
// Prints one line of JSON per measurement. Spawned by math.test.ts.
#include <quadmath.h>
#include <stdio.h>

#include <initializer_list>

#include "portable/scalar.cuh"

using namespace mmsb;
using namespace mmsb::MMSB_NS;

typedef __float128 quad;

// ---- the functions and their references -------------------------------------------------------------------

struct Function {
  const char* name;
  f32 (*single)(f32, f32);
  f64 (*twice)(f64, f64);
  quad (*exact)(quad, quad);
  f64 (*near)(f64, f64);  // the platform's function, for sweeps that would take too long in quad precision
  bool binary;
};

#define FUNCTION(NAME, OURS, QUAD, NEAR, BINARY)                                                      \
  {                                                                                                   \
    NAME, [](f32 x, f32 y) -> f32 { return OURS; }, [](f64 x, f64 y) -> f64 { return OURS; },         \
        [](quad x, quad y) -> quad { return QUAD; }, [](f64 x, f64 y) -> f64 { return NEAR; }, BINARY \
  }
static const Function kFunctions[] = {
    FUNCTION("exp", mExp(x), expq(x), exp(x), false),     FUNCTION("log", mLog(x), logq(x), log(x), false),
    FUNCTION("log2", mLog2(x), log2q(x), log2(x), false), FUNCTION("sin", sSin(x), sinq(x), sin(x), false),
    FUNCTION("cos", sCos(x), cosq(x), cos(x), false),     FUNCTION("tan", sTan(x), tanq(x), tan(x), false),
    FUNCTION("tanh", mTanh(x), tanhq(x), tanh(x), false), FUNCTION("pow", mPow(x, y), powq(x, y), pow(x, y), true),
};

// ---- errors in units in the last place --------------------------------------------------------------------

// |got - exact| in units of the last place of a format of `bits` bits, whose smallest subnormal is 2^lowest
// and whose largest number is below 2^highest. Infinity counts as 2^highest, the successor of the largest
// number.
static double ulps(quad got, quad exact, int bits, int lowest, int highest) {
  if (exact != exact || got != got) return exact != exact && got != got ? 0 : INFINITY;
  const quad limit = ldexpq(1, highest);
  if (fabsq(exact) > limit) exact = copysignq(limit, exact);
  if (fabsq(got) > limit) got = copysignq(limit, got);
  if (got == exact) return 0;
  int exponent;
  frexpq(exact == 0 ? got : exact, &exponent);
  if (exponent > highest) exponent = highest;
  const int unit = exponent - bits < lowest ? lowest : exponent - bits;
  return double(fabsq((got - exact) / ldexpq(1, unit)));
}

struct Worst {
  double error;
  double x, y;
  u64 checked;
};

static void check32(const Function& f, f32 x, f32 y, Worst& worst) {
  const quad got = f.single(x, y), exact = f.exact(x, y);
  const double error = ulps(got, exact, 24, -149, 128);
  worst.checked++;
  if (!(error <= worst.error)) worst = Worst{error, x, y, worst.checked};
}
static void check64(const Function& f, f64 x, f64 y, Worst& worst) {
  const quad got = f.twice(x, y), exact = f.exact(x, y);
  const double error = ulps(got, exact, 53, -1074, 1024);
  worst.checked++;
  if (!(error <= worst.error)) worst = Worst{error, x, y, worst.checked};
}

static u64 seed = 0x9e3779b97f4a7c15ull;
static u64 draw() {
  seed ^= seed << 13;
  seed ^= seed >> 7;
  seed ^= seed << 17;
  return seed * 0x2545f4914f6cdd1dull;
}
static double unit() { return double(draw() >> 11) * 0x1p-53; }

static void print(const Function& f, const char* dtype, const Worst& worst) {
  printf("{\"function\":\"%s\",\"dtype\":\"%s\",\"checked\":%llu,\"maxUlp\":%.4f,\"x\":\"%a\",\"y\":\"%a\"}\n", f.name,
         dtype, static_cast<unsigned long long>(worst.checked), worst.error == INFINITY ? 1e9 : worst.error, worst.x,
         worst.y);
  fflush(stdout);
}

// A few exponents per base: of ordinary size, or such that the result is, or a random pattern.
static f32 power32(f32 x, u32 k) {
  if (k % 3 == 0) return f32((unit() - 0.5) * 20);
  if (k % 3 == 1) return f32Of(u32(draw() >> 32));
  const double log2x = log2(fabs(double(x)));
  return f32((unit() * 280 - 152) / (log2x == 0 ? 1 : log2x));
}
static f64 power64(f64 x, u32 k) {
  if (k % 3 == 0) return (unit() - 0.5) * 20;
  if (k % 3 == 1) return f64Of(draw());
  const double log2x = log2(fabs(x));
  return (unit() * 2110 - 1080) / (log2x == 0 ? 1 : log2x);
}

static void sweep32(const Function& f, u64 stride) {
  Worst worst = {0, 0, 0, 0};
  for (u64 bits = 0; bits < 0x100000000ull; bits += stride) {
    const f32 x = f32Of(u32(bits));
    check32(f, x, f.binary ? power32(x, u32(bits / stride)) : 0, worst);
  }
  print(f, "f32", worst);
}

static void sweepAll32(const Function& f) {
  Worst worst = {0, 0, 0, 0};
  for (u64 bits = 0; bits < 0x100000000ull; bits++) {
    const f32 x = f32Of(u32(bits));
    const f64 got = f.single(x, 1.5f), near = f.near(x, 1.5);
    worst.checked++;
    if (got != got && near != near) continue;
    if (got == f64(f32(near)) && fabs(got) < 0x1p126 && fabs(got) > 0x1p-120) {
      // Fast path for the usual case: the result equals the rounded reference, so the error is at most 0.5.
      const f64 error = fabs(got - near) * f64Of((u64(2046 + 23) << 52) - (bitsOf(near) & kInfBits));
      if (error > worst.error) worst = Worst{error, x, 0, worst.checked};
      continue;
    }
    const f64 error = ulps(got, near, 24, -149, 128);
    if (!(error <= worst.error)) worst = Worst{error, x, 0, worst.checked};
  }
  print(f, "f32", worst);
}

static void sweep64(const Function& f, u64 count) {
  Worst worst = {0, 0, 0, 0};
  for (u64 i = 0; i < count; i++) {
    const f64 pattern = f64Of(draw());
    const f64 arguments[] = {pattern,
                             (unit() - 0.5) * 4,
                             1 + (unit() - 0.5) * 0.01,
                             (unit() - 0.5) * 1500,
                             unit() * 2,
                             (unit() - 0.5) * 50,
                             f64(i64(draw() % 2000) - 1000) * kHalfPi,
                             (unit() - 0.5) * 4e6,
                             unit() * 0x1p-1022};
    for (u32 k = 0; k < sizeof arguments / sizeof arguments[0]; k++) {
      const f64 x = arguments[k];
      check64(f, x, f.binary ? power64(x, u32(draw() >> 33)) : 0, worst);
    }
  }
  print(f, "f64", worst);
}

// ---- edges ------------------------------------------------------------------------------------------------

static int failures = 0;
static bool sameValue(f64 a, f64 b) { return a != a ? b != b : bitsOf(a) == bitsOf(b); }
static void expect(const char* what, f64 x, f64 y, f64 got, f64 wanted) {
  if (sameValue(got, wanted)) return;
  failures++;
  printf("{\"edge\":\"%s\",\"x\":\"%a\",\"y\":\"%a\",\"got\":\"%a\",\"wanted\":\"%a\"}\n", what, x, y, got, wanted);
}
static void edge(const char* name, f64 x, f64 y, f64 wanted) {
  for (const Function& f : kFunctions) {
    if (strcmp(f.name, name) != 0) continue;
    expect(name, x, y, f.twice(x, y), wanted);
    if (f64(f32(x)) == x || x != x) expect(name, x, y, f64(f.single(f32(x), f32(y))), f64(f32(wanted)));
  }
}

static void edges() {
  const f64 inf = INFINITY, nan = NAN;
  for (const char* name : {"exp", "log", "log2", "sin", "cos", "tan", "tanh"}) edge(name, nan, 0, nan);
  edge("exp", 0, 0, 1), edge("exp", -0.0, 0, 1), edge("exp", inf, 0, inf), edge("exp", -inf, 0, 0),
      edge("exp", 1e9, 0, inf);
  edge("exp", -1e9, 0, 0);
  for (const char* name : {"log", "log2"}) {
    edge(name, 0, 0, -inf), edge(name, -0.0, 0, -inf), edge(name, 1, 0, 0), edge(name, -1, 0, nan),
        edge(name, inf, 0, inf);
    edge(name, -inf, 0, nan), edge(name, -0x1p-149, 0, nan);
  }
  for (int k = -149; k < 128; k++) edge("log2", ldexp(1, k), 0, k);
  for (const char* name : {"sin", "tan", "tanh"}) {
    edge(name, 0, 0, 0), edge(name, -0.0, 0, -0.0), edge(name, 0x1p-149, 0, 0x1p-149),
        edge(name, -0x1p-149, 0, -0x1p-149);
  }
  edge("cos", 0, 0, 1), edge("cos", -0.0, 0, 1);
  for (const char* name : {"sin", "cos", "tan"}) edge(name, inf, 0, nan), edge(name, -inf, 0, nan);
  edge("tanh", inf, 0, 1), edge("tanh", -inf, 0, -1), edge("tanh", 1e9, 0, 1);
  const f64 values[] = {0,
                        -0.0,
                        1,
                        -1,
                        2,
                        -2,
                        3,
                        -3,
                        0.5,
                        -0.5,
                        1.5,
                        -1.5,
                        inf,
                        -inf,
                        nan,
                        4,
                        5,
                        -5,
                        1e9,
                        -1e9,
                        1e30,
                        -1e30,
                        1e-9,
                        -7,
                        0x1p24,
                        0x1.8p1,
                        -0x1p23,
                        0x1.000002p23,
                        0x1p52,
                        0x1.0000000000001p52,
                        0x1.0000000000001p51,
                        0x1.8p51,
                        0x1p53,
                        0x1.fffffffffffffp52};
  // Compares pow with the platform's. Only exceptional cases must be equal; the sweep tests the others.
  for (f64 x : values) {
    for (f64 y : values) {
      const f64 wanted = pow(x, y);
      if (wanted != wanted || wanted == 0 || fabs(wanted) == 1 || isinf(wanted)) {
        expect("pow", x, y, mPow(x, y), wanted);
      }
      if (f64(f32(x)) != x && x == x) continue;
      if (f64(f32(y)) != y && y == y) continue;
      const f32 single = powf(f32(x), f32(y));
      if (single != single || single == 0 || fabsf(single) == 1 || isinf(single)) {
        expect("powf", x, y, mPow(f32(x), f32(y)), single);
      }
    }
  }
  printf("{\"edges\":true,\"failures\":%d}\n", failures);
}

// ---- hashes of bits ---------------------------------------------------------------------------------------

static void hashes(u64 count) {
  for (const Function& f : kFunctions) {
    u64 h32 = 14695981039346656037ull, h64 = h32;
    seed = 0x9e3779b97f4a7c15ull;
    for (u64 i = 0; i < count; i++) {
      const u64 a = draw(), b = draw();
      // One third are raw patterns, the others of ordinary size.
      const f64 x = i % 3 == 0 ? f64Of(a) : (unit() - 0.5) * (i % 3 == 1 ? 20 : 3000),
                y = i % 5 == 0 ? f64Of(b) : (unit() - 0.5) * 20;
      const f32 x32 = i % 3 == 0 ? f32Of(u32(a)) : f32(x);
      h64 = (h64 ^ bitsOf(canonical(f.twice(x, y)))) * 1099511628211ull;
      h32 = (h32 ^ bitsOf(canonical(f.single(x32, f32(y))))) * 1099511628211ull;
    }
    printf("%s f32 %016llx\n%s f64 %016llx\n", f.name, static_cast<unsigned long long>(h32), f.name,
           static_cast<unsigned long long>(h64));
  }
}

int main(int argc, char** argv) {
  if (argc == 5 && strcmp(argv[1], "error") == 0) {
    for (const Function& f : kFunctions) {
      if (strcmp(argv[2], f.name) != 0) continue;
      if (strcmp(argv[3], "f32") == 0) sweep32(f, strtoull(argv[4], nullptr, 10));
      else sweep64(f, strtoull(argv[4], nullptr, 10));
    }
    return 0;
  }
  if (argc == 3 && strcmp(argv[1], "all") == 0) {
    for (const Function& f : kFunctions) {
      if (strcmp(argv[2], f.name) == 0) sweepAll32(f);
    }
    return 0;
  }
  if (argc == 2 && strcmp(argv[1], "edges") == 0) {
    edges();
    return failures != 0;
  }
  if (argc == 3 && strcmp(argv[1], "hash") == 0) {
    hashes(strtoull(argv[2], nullptr, 10));
    return 0;
  }
  fprintf(stderr, "usage: math error FUNCTION f32|f64 N | all FUNCTION | edges | hash N\n");
  return 2;
}
