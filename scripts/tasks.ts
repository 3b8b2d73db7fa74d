/**
 * The shipped task files, configs/tasks/*.jsonl: written by scripts/generate.ts. The same on every machine. Each is
 * an even sample of all combinations of its parts, in random order. docs/tasks.md names the papers.
 */
import { shuffled } from "../src/samples/blocks.ts";
import type { TaskItem } from "../src/samples/task-file.ts";

const ITEMS = 240;
const SEED = 0;

/** Parts → one combination of them an item, drawn without replacement out of all of them. */
function* combinations<T extends Record<string, readonly unknown[]>>(
  parts: T,
): Generator<{ [K in keyof T]: T[K][number] }> {
  const total = Object.values(parts).reduce((product, { length }) => product * length, 1);
  for (const index of shuffled(total, SEED)) {
    let rest = index;
    yield Object.fromEntries(
      Object.entries(parts).map(([name, values]) => {
        const value = values[rest % values.length];
        rest = Math.floor(rest / values.length);
        return [name, value];
      }),
    ) as { [K in keyof T]: T[K][number] };
  }
}

const range = (length: number): number[] => Array.from({ length }, (_, index) => index);

const NAMES =
  "Mary John Tom James Sarah Anna David Paul Mark Peter Jack Emma Alice Kate Laura Simon Robert Michael Daniel Susan".split(
    " ",
  );

/** The name that stands once is the indirect object; the one that stands twice is the wrong answer. */
function* indirectObject(): Generator<TaskItem> {
  const sentences = [
    ["went to the", "gave a", "to"],
    ["were working at the", "decided to give a", "to"],
    ["had a lot of fun at the", "handed a", "to"],
    ["were thinking about going to the", "wanted to pass a", "to"],
  ] as const;
  for (const { object, subject, swapped, sentence, place, thing } of combinations({
    object: NAMES,
    subject: NAMES,
    swapped: [false, true],
    sentence: sentences,
    place: ["store", "school", "station", "garden", "hospital", "office"],
    thing: ["drink", "book", "ring", "necklace", "computer", "basketball"],
  })) {
    if (object === subject) continue;
    const [first, second] = swapped ? [subject, object] : [object, subject];
    const [went, gave, to] = sentence;
    const prompt = `When ${first} and ${second} ${went} ${place}, ${subject} ${gave} ${thing} ${to}`;
    yield { prompt, answer: ` ${object}`, wrong: ` ${subject}` };
  }
}

/** The answers differ from each other, and from the year named first, in their first digit of the two. */
function* greaterThan(): Generator<TaskItem> {
  for (const { event, century, tens, units, later, earlier } of combinations({
    event: [
      "war",
      "famine",
      "reign",
      "siege",
      "voyage",
      "trial",
      "dispute",
      "occupation",
      "project",
      "drought",
    ],
    century: range(7).map((index) => 11 + index),
    tens: range(10),
    units: range(10),
    later: range(10),
    earlier: range(10),
  })) {
    if (!(earlier < tens && tens < later)) continue;
    const prompt = `The ${event} lasted from the year ${century}${tens}${units} to the year ${century}`;
    yield { prompt, answer: `${later}${units}`, wrong: `${earlier}${units}` };
  }
}

/** The noun between subject and verb may be of the other number. */
function* agreement(): Generator<TaskItem> {
  const subjects = "key,author,picture,book,painter,teacher,guard,farmer,letter,window,report,driver".split(
    ",",
  );
  const between = "cabinet,house,garden,village,machine,school,station,museum,garage,office".split(",");
  for (const { subject, plural, preposition, other, others, verb } of combinations({
    subject: subjects,
    plural: [false, true],
    preposition: ["near", "behind", "beside", "from", "of"],
    other: between,
    others: [false, true],
    verb: [
      [" is", " are"],
      [" was", " were"],
      [" has", " have"],
    ] as const,
  })) {
    const prompt = `The ${subject}${plural ? "s" : ""} ${preposition} the ${other}${others ? "s" : ""}`;
    const [singular, many] = verb;
    yield plural ? { prompt, answer: many, wrong: singular } : { prompt, answer: singular, wrong: many };
  }
}

const WORDS =
  "apple chair river stone cloud horse paper glass table bread water light house plant night sound train music heart field green black white brown north south world money power party story group month paint wheel ocean tiger eagle lemon sugar metal brick fence knife spoon shirt boots phone radio clock motor truck plane novel actor judge nurse pilot chief queen uncle child woman beach coast island forest desert valley bridge castle tower market street corner window mirror candle basket bottle butter cheese potato tomato cotton silver copper winter summer spring autumn doctor lawyer farmer writer singer dancer".split(
    " ",
  );
/** Words before they repeat. */
const REPEATED = 24;

/** Random words, then the same ones again up to some place: the answer is the word that followed there before. */
function* induction(): Generator<TaskItem> {
  for (const seed of range(ITEMS)) {
    const words = shuffled(WORDS.length, seed)
      .slice(0, REPEATED)
      .map((index) => ` ${WORDS[index]}`);
    // Neither the first words, to which much else points, nor the last.
    const [place = 0, other = 0] = shuffled(REPEATED - 2, seed).map((index) => index + 1);
    const prompt = [...words, ...words.slice(0, place)].join("");
    yield { prompt, answer: words[place] as string, wrong: words[other] as string };
  }
}

const TASKS = {
  "indirect-object": indirectObject,
  "greater-than": greaterThan,
  agreement,
  induction,
} as const;

/** File name → its lines. */
export const taskFiles: readonly (readonly [string, string])[] = Object.entries(TASKS).map(
  ([name, generate]) => [
    `${name}.jsonl`,
    generate()
      .take(ITEMS)
      .map((item) => `${JSON.stringify(item)}\n`)
      .toArray()
      .join(""),
  ],
);
