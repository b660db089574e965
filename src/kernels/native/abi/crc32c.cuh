// CRC-32C (Castagnoli, RFC 3720), by the SSE4.2 instruction if the machine has it, else by table. Host part
// only.
#pragma once
#include <immintrin.h>
#include <pthread.h>

#include "core/op.cuh"

namespace mmsb {
namespace MMSB_NS {

static const u32 kCrcPolynomial = 0x82f63b78;  // reflected
static const u64 kCrcLane = 1024;              // bytes of each of the three parallel lanes

struct CrcTables {
  u32 byte[256];
  u32 lane[4][256];  // the CRC of each byte after kCrcLane zero bytes
};

static constexpr u32 crcByte(u32 crc) {
  for (u32 bit = 0; bit < 8; bit++) crc = (crc & 1) != 0 ? (crc >> 1) ^ kCrcPolynomial : crc >> 1;
  return crc;
}

static void crcMakeTables(CrcTables& tables) {
  for (u32 i = 0; i < 256; i++) tables.byte[i] = crcByte(i);
  u32 shifted[32];  // each single bit of a CRC after kCrcLane zero bytes
  for (u32 bit = 0; bit < 32; bit++) {
    u32 crc = 1u << bit;
    for (u64 i = 0; i < kCrcLane; i++) crc = (crc >> 8) ^ tables.byte[crc & 255];
    shifted[bit] = crc;
  }
  for (u32 byte = 0; byte < 4; byte++) {
    for (u32 value = 0; value < 256; value++) {
      u32 crc = 0;
      for (u32 bit = 0; bit < 8; bit++) crc ^= (value >> bit & 1) != 0 ? shifted[8 * byte + bit] : 0;
      tables.lane[byte][value] = crc;
    }
  }
}

static const CrcTables& crcTables() {
  static CrcTables tables;
  static pthread_once_t once = PTHREAD_ONCE_INIT;
  pthread_once(&once, [] { crcMakeTables(tables); });
  return tables;
}

static u32 crcPlain(const u8* data, u64 length, u32 crc) {
  const CrcTables& tables = crcTables();
  for (u64 i = 0; i < length; i++) crc = (crc >> 8) ^ tables.byte[(crc ^ data[i]) & 255];
  return crc;
}

static inline u32 crcShift(const CrcTables& tables, u32 crc) {
  return tables.lane[0][crc & 255] ^ tables.lane[1][crc >> 8 & 255] ^ tables.lane[2][crc >> 16 & 255] ^
         tables.lane[3][crc >> 24];
}

// Three lanes hide the latency of the instruction. The shift tables join their results.
__attribute__((target("sse4.2"))) static u32 crcFast(const u8* data, u64 length, u32 start) {
  const CrcTables& tables = crcTables();
  u64 crc = start;
  while (length >= 3 * kCrcLane) {
    u64 second = 0, third = 0;
    for (u64 i = 0; i < kCrcLane; i += 8) {
      u64 words[3];
      memcpy(&words[0], data + i, 8);
      memcpy(&words[1], data + kCrcLane + i, 8);
      memcpy(&words[2], data + 2 * kCrcLane + i, 8);
      crc = _mm_crc32_u64(crc, words[0]);
      second = _mm_crc32_u64(second, words[1]);
      third = _mm_crc32_u64(third, words[2]);
    }
    crc = crcShift(tables, u32(crc)) ^ second;
    crc = crcShift(tables, u32(crc)) ^ third;
    data += 3 * kCrcLane;
    length -= 3 * kCrcLane;
  }
  for (; length >= 8; length -= 8, data += 8) {
    u64 word;
    memcpy(&word, data, 8);
    crc = _mm_crc32_u64(crc, word);
  }
  for (; length != 0; length--, data++) crc = _mm_crc32_u8(u32(crc), *data);
  return u32(crc);
}

static u32 crc32c(const u8* data, u64 length, u32 seed) {
  const u32 crc = ~seed;
  return ~(__builtin_cpu_supports("sse4.2") ? crcFast(data, length, crc) : crcPlain(data, length, crc));
}

}  // namespace MMSB_NS
}  // namespace mmsb
