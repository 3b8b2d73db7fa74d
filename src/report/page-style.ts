/** report.html's style: readable on a phone, on paper, and in the dark; contrast at least 4.5 to 1. */
export const PAGE_STYLE = `
:root { --font: system-ui, -apple-system, "Segoe UI", "DejaVu Sans", sans-serif; }
:root, :root[data-theme="light"] {
  color-scheme: light;
  --background: #ffffff; --text: #1a1a1a; --muted: #595959; --grid: #e3e3e3; --accent: #00598c; --soft: #f5f6f7;
  --caution: #9a3412;
}
:root[data-theme="dark"] {
  color-scheme: dark;
  --background: #16181b; --text: #ececec; --muted: #a8adb3; --grid: #3a3e44; --accent: #7cc4f0; --soft: #202327;
  --caution: #f0a878;
}
* { box-sizing: border-box; }
[hidden] { display: none !important; }
body { margin: 0 auto; padding: 1.25rem; max-width: 76rem; background: var(--background); color: var(--text);
  font: 1rem/1.5 var(--font); }
header { display: flex; gap: 1rem; justify-content: space-between; align-items: start; }
h1 { font-size: 1.5rem; line-height: 1.25; margin: 0 0 .25rem; overflow-wrap: anywhere; }
h2 { font-size: 1.15rem; margin: 2.25rem 0 .5rem; }
p { margin: .4rem 0; max-width: 60rem; overflow-wrap: anywhere; }
.muted, figcaption { color: var(--muted); font-size: .875rem; }
button { font: inherit; color: var(--accent); background: none; border: 1px solid var(--grid); border-radius: .35rem;
  padding: .3rem .7rem; cursor: pointer; white-space: nowrap; }
button:focus-visible, input:focus-visible, canvas:focus-visible, .scroll:focus-visible { outline: 2px solid var(--accent);
  outline-offset: 2px; }
figure { margin: 1rem 0 2rem; }
figcaption { white-space: pre-wrap; }
figure h3 { font-size: 1rem; margin: 0 0 .5rem; }
.scroll { overflow-x: auto; padding: 3px; margin: 0 -3px; }
.chart { position: relative; width: 100%; }
.caution { border-left: 3px solid var(--caution); padding-left: .75rem; }
#live { font-weight: 600; }
#live[data-phase="failed"], #live[data-phase="gone"] { color: var(--caution); }
progress { width: 100%; max-width: 30rem; height: .6rem; accent-color: var(--accent); }
.controls { display: flex; flex-wrap: wrap; gap: .5rem 1.25rem; align-items: center; margin: .5rem 0; }
.controls input[type="search"] { font: inherit; padding: .3rem .5rem; border: 1px solid var(--muted); border-radius: .35rem;
  background: var(--background); color: var(--text); min-width: 14rem; }
table { border-collapse: collapse; font-size: .875rem; font-variant-numeric: tabular-nums; }
th, td { padding: .25rem .6rem; text-align: left; border-bottom: 1px solid var(--grid); white-space: nowrap; }
#ranking { min-width: 100%; }
th { position: sticky; top: 0; background: var(--background); }
th button { border: 0; padding: 0; font-weight: 600; color: var(--text); }
th[aria-sort="ascending"] button::after { content: " ↑"; }
th[aria-sort="descending"] button::after { content: " ↓"; }
.number { text-align: right; }
pre { background: var(--soft); padding: .75rem; overflow-x: auto; font-size: .8125rem; border-radius: .35rem; }
.unseen { position: absolute; width: 1px; height: 1px; overflow: hidden; clip-path: inset(50%); white-space: nowrap; }
@media print {
  button, .controls, .unseen { display: none; }
  body { max-width: none; padding: 0; font-size: 10pt; }
  .scroll { overflow: visible; }
  canvas { max-width: 100% !important; height: auto !important; }
  figure { break-inside: avoid; }
  th button { display: inline; }
  table { font-size: 8pt; }
  th, td { padding: .1rem .35rem; }
}
`;
