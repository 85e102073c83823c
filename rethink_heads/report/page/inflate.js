// Inflate (RFC 1951) of a gzip member, for browsers without DecompressionStream. After the description in the RFC.

const LENGTH_BASE = [3, 4, 5, 6, 7, 8, 9, 10, 11, 13, 15, 17, 19, 23, 27, 31, 35, 43, 51, 59, 67, 83, 99, 115, 131, 163, 195, 227, 258];
const LENGTH_BITS = [0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3, 4, 4, 4, 4, 5, 5, 5, 5, 0];
const DISTANCE_BASE = [1, 2, 3, 4, 5, 7, 9, 13, 17, 25, 33, 49, 65, 97, 129, 193, 257, 385, 513, 769, 1025, 1537, 2049, 3073, 4097, 6145, 8193, 12289, 16385, 24577];
const DISTANCE_BITS = [0, 0, 0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6, 7, 7, 8, 8, 9, 9, 10, 10, 11, 11, 12, 12, 13, 13];
const CODE_ORDER = [16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15];
const LONGEST_CODE = 15;

/** How many codes there are of each length, and the symbols in the order of their codes. */
function huffman(lengths) {
  const counts = new Uint16Array(LONGEST_CODE + 1);
  for (const length of lengths) counts[length] += 1;
  counts[0] = 0;
  const offsets = new Uint16Array(LONGEST_CODE + 2);
  for (let length = 1; length <= LONGEST_CODE; length += 1) offsets[length + 1] = offsets[length] + counts[length];
  const symbols = new Uint16Array(lengths.length);
  lengths.forEach((length, symbol) => {
    if (length) symbols[offsets[length]++] = symbol;
  });
  return { counts, symbols };
}

/** The bytes of a gzip member with no extra header fields, as Python's gzip.compress writes it. */
export function gunzip(bytes) {
  let place = 10;
  let bits = 0;
  let held = 0;
  // The last four bytes are the size, modulo 2 ** 32.
  const out = new Uint8Array(new DataView(bytes.buffer, bytes.byteOffset + bytes.length - 4, 4).getUint32(0, true));
  let end = 0;

  const take = (count) => {
    while (held < count) {
      bits |= bytes[place++] << held;
      held += 8;
    }
    const value = bits & ((1 << count) - 1);
    bits >>>= count;
    held -= count;
    return value;
  };
  const symbol = ({ counts, symbols }) => {
    let code = 0;
    let first = 0;
    let index = 0;
    for (let length = 1; length <= LONGEST_CODE; length += 1) {
      code |= take(1);
      const count = counts[length];
      if (code - count < first) return symbols[index + code - first];
      index += count;
      first = (first + count) << 1;
      code <<= 1;
    }
    throw new Error("the data in this page are damaged");
  };
  const block = (literals, distances) => {
    for (;;) {
      const found = symbol(literals);
      if (found === 256) return;
      if (found < 256) {
        out[end++] = found;
        continue;
      }
      const length = LENGTH_BASE[found - 257] + take(LENGTH_BITS[found - 257]);
      const kind = symbol(distances);
      const distance = DISTANCE_BASE[kind] + take(DISTANCE_BITS[kind]);
      for (let count = 0; count < length; count += 1, end += 1) out[end] = out[end - distance];
    }
  };

  const fixed = [
    huffman(Array.from({ length: 288 }, (_, at) => (at < 144 ? 8 : at < 256 ? 9 : at < 280 ? 7 : 8))),
    huffman(new Array(30).fill(5)),
  ];
  let last = false;
  while (!last) {
    last = take(1) === 1;
    const kind = take(2);
    if (kind === 0) {
      bits = held = 0;
      const length = bytes[place] | (bytes[place + 1] << 8);
      out.set(bytes.subarray(place + 4, place + 4 + length), end);
      place += 4 + length;
      end += length;
    } else if (kind === 1) {
      block(...fixed);
    } else {
      const [literals, distances, codes] = [take(5) + 257, take(5) + 1, take(4) + 4];
      const lengths = new Array(19).fill(0);
      for (let at = 0; at < codes; at += 1) lengths[CODE_ORDER[at]] = take(3);
      const code = huffman(lengths);
      const all = [];
      while (all.length < literals + distances) {
        const found = symbol(code);
        if (found < 16) all.push(found);
        else if (found === 16) all.push(...new Array(3 + take(2)).fill(all.at(-1)));
        else all.push(...new Array(found === 17 ? 3 + take(3) : 11 + take(7)).fill(0));
      }
      block(huffman(all.slice(0, literals)), huffman(all.slice(literals)));
    }
  }
  return out;
}
