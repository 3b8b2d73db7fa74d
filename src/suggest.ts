import { closestMatch } from "leven";

/** The known name nearest to a mistyped one, or undefined where none is near. */
export function suggest(word: string, known: readonly string[]): string | undefined {
  // Two: a pair of swapped letters counts as two edits.
  const tolerance = word.length < 4 ? 1 : Math.max(2, Math.floor(word.length / 3));
  const nearest = closestMatch(
    word.toLowerCase(),
    known.map((name) => name.toLowerCase()),
    { maxDistance: tolerance },
  );
  return nearest === undefined ? undefined : known.find((name) => name.toLowerCase() === nearest);
}

/** `, did you mean "x"?`, or nothing where no known name is near: to be put behind a complaint. */
export function didYouMean(word: string, known: readonly string[]): string {
  const nearest = suggest(word, known);
  return nearest === undefined ? "" : `, did you mean "${nearest}"?`;
}
