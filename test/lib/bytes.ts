/** The bytes of an array, to compare large ones: `t.same` prints both sides even if they are equal. */

/** Shares memory with the array. */
export const bytesOf = ({ buffer, byteOffset, byteLength }: ArrayBufferView): Buffer =>
  Buffer.from(buffer, byteOffset, byteLength)
