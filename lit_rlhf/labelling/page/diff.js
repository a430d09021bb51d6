// What differs between two texts, word by word.

const MOST_CELLS = 9_000_000;

function wordsOf(text) {
  return text.match(/[\p{L}\p{N}_]+|\s+|[^\p{L}\p{N}_\s]/gu) ?? [];
}

/**
 * The words of both texts in one list of `{ text, of }`, `of` one of "both", "first", "second", by their longest common
 * subsequence; null when they are too long for that.
 */
export function differences(first, second) {
  const [a, b] = [wordsOf(first), wordsOf(second)];
  let start = 0;
  while (start < a.length && start < b.length && a[start] === b[start]) start++;
  let end = 0;
  while (end < a.length - start && end < b.length - start && a.at(-1 - end) === b.at(-1 - end)) end++;
  const [rows, columns] = [a.length - start - end, b.length - start - end];
  if (rows * columns > MOST_CELLS) return null;
  const longest = commonLengths(a.slice(start, a.length - end), b.slice(start, b.length - end));
  const merged = a.slice(0, start).map((text) => ({ text, of: "both" }));
  let [i, j] = [0, 0];
  while (i < rows || j < columns) {
    if (i < rows && j < columns && a[start + i] === b[start + j]) {
      merged.push({ text: a[start + i++], of: "both" });
      j++;
    } else if (j === columns || (i < rows && longest(i + 1, j) >= longest(i, j + 1))) {
      merged.push({ text: a[start + i++], of: "first" });
    } else {
      merged.push({ text: b[start + j++], of: "second" });
    }
  }
  return [...merged, ...a.slice(a.length - end).map((text) => ({ text, of: "both" }))];
}

/** How many words a's end from `i` and b's end from `j` have in common. */
function commonLengths(a, b) {
  const width = b.length + 1;
  const lengths = new Uint16Array((a.length + 1) * width);
  for (let i = a.length - 1; i >= 0; i--) {
    for (let j = b.length - 1; j >= 0; j--) {
      const [below, right] = [lengths[(i + 1) * width + j], lengths[i * width + j + 1]];
      lengths[i * width + j] = a[i] === b[j] ? lengths[(i + 1) * width + j + 1] + 1 : Math.max(below, right);
    }
  }
  return (i, j) => lengths[i * width + j];
}

/** One of the two texts as pieces of `{ text, only }`; white space between two marked words is marked with them. */
export function marksOf(merged, side) {
  const words = merged.filter(({ of }) => of === "both" || of === side);
  const pieces = [];
  words.forEach(({ text, of }, i) => {
    const between = /^\s+$/.test(text) && words[i - 1]?.of === side && words[i + 1]?.of === side;
    const only = of === side || between;
    if (pieces.at(-1)?.only === only) pieces.at(-1).text += text;
    else pieces.push({ text, only });
  });
  return pieces;
}
