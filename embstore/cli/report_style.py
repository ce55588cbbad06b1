"""How the page of ``embstore report`` looks, besides what all pages have."""

from __future__ import annotations

STYLE = """
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(9rem, 1fr)); gap: .75rem;
         margin: 1.5rem 0; }
.tiles div { background: var(--card); border-radius: 8px; padding: .75rem 1rem; }
.tiles dt, .note { color: var(--soft); font-size: .85rem; }
.tiles dd { font-size: 1.5rem; line-height: 1.3; font-variant-numeric: tabular-nums; }
.tiles dd small { display: block; font-size: .85rem; color: var(--soft); }
.bad { color: var(--second); font-weight: 600; }
.charts { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 17rem), 1fr));
          gap: 1.5rem 2rem; }
figure { margin: 0; min-width: 0; }
figcaption { font-weight: 600; margin-bottom: .5rem; display: flex; flex-wrap: wrap; gap: 0 1rem; }
.legend { font-weight: 400; font-size: .85rem; color: var(--soft); display: inline-flex;
          gap: 1rem; }
.legend svg { width: .7em; height: .7em; }
.plot { display: grid; grid-template-columns: auto minmax(0, 1fr); gap: .25rem .5rem;
        font-size: .8rem; color: var(--soft); font-variant-numeric: tabular-nums; }
.plot svg { width: 100%; height: 11rem; overflow: visible; }
.up { display: flex; flex-direction: column; justify-content: space-between; text-align: right;
      margin: -.6em 0; white-space: nowrap; }
.along { grid-column: 2; display: flex; justify-content: space-between; }
.grid { stroke: var(--line); stroke-width: 1; vector-effect: non-scaling-stroke; }
.area { fill: var(--fill); }
.line { fill: none; stroke: var(--first); stroke-width: 2; vector-effect: non-scaling-stroke;
        stroke-linejoin: round; }
.dot { stroke: var(--first); stroke-width: 7; stroke-linecap: round;
       vector-effect: non-scaling-stroke; }
.first { fill: var(--first); }
.second { fill: var(--second); }
.spark { width: 6rem; height: 1.4rem; vertical-align: middle; }
.share { width: 100%; height: .35rem; display: block; }
.found td { white-space: normal; }
.spaces { width: 100%; }
.spaces th[scope=row] { font-weight: 400; white-space: normal; }
.spaces th[scope=row] b { display: block; }
.spaces tr > :last-child { padding-right: 0; }
code { font-size: .8rem; color: var(--soft); }
.spaces code { display: block; }
@media (max-width: 46rem) {
  .spaces thead { position: absolute; clip-path: inset(50%); height: 1px; width: 1px;
                  overflow: hidden; }
  .spaces, .spaces tbody { display: block; }
  .spaces tr { display: grid; grid-template-columns: 1fr 1fr; gap: 0 1rem; padding: .75rem 0;
               border-bottom: 1px solid var(--line); }
  .spaces th, .spaces td { border: 0; padding: 0; text-align: left; white-space: normal; }
  .spaces th[scope=row] { grid-column: 1 / -1; }
  .spaces td::before { content: attr(data-label); color: var(--soft); font-size: .8rem;
                       display: block; } }
@media print {
  body { margin: 0; max-width: none; font-size: 11px; }
  section, figure, tr { break-inside: avoid; }
  details::details-content { content-visibility: visible; } }
"""
