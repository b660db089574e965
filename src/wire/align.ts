/** Every part of a frame and of a binary message starts at a multiple of 8 bytes. */

/** The next multiple of 8. Exact for any length a frame can claim. */
export const align8 = (bytes: number): number => Math.ceil(bytes / 8) * 8
