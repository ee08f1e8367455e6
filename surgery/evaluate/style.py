"""The style sheet of the report."""
# ruff: noqa: E501

STYLE = """
:root{color-scheme:light dark;--paper:#fdfcfa;--ink:#1c1b19;--soft:#6b6760;--hair:#e4e0d9;--wash:#f5f2ed;--accent:#c2410c;
--serif:"Iowan Old Style","Palatino Linotype",Palatino,Charter,"Source Serif 4",Georgia,serif;
--sans:system-ui,-apple-system,"Segoe UI",Roboto,"Helvetica Neue",Arial,sans-serif;
--mono:ui-monospace,"SF Mono","Cascadia Mono",Menlo,Consolas,"Liberation Mono",monospace}
@media (prefers-color-scheme:dark){:root{--paper:#161513;--ink:#e9e6e0;--soft:#9c968c;--hair:#33302b;--wash:#201e1b;--accent:#f0783c}}
*{box-sizing:border-box}
html{-webkit-text-size-adjust:100%;scrollbar-gutter:stable}
body{margin:0;background:var(--paper);color:var(--ink);font:16px/1.6 var(--sans);font-variant-numeric:tabular-nums}
main{max-width:62rem;margin:0 auto;padding:clamp(2.5rem,8vw,6rem) clamp(1.1rem,4vw,2.5rem) 4rem}
header{max-width:44rem}
.over{margin:0 0 .9rem;color:var(--accent);font-size:.8rem;font-weight:600;letter-spacing:.08em;text-transform:uppercase}
h1{margin:0;font:600 clamp(1.8rem,5vw,2.6rem)/1.15 var(--serif);letter-spacing:-.012em;overflow-wrap:anywhere;text-wrap:balance}
.verdict{margin:1.4rem 0 0;font:1.25rem/1.55 var(--serif);text-wrap:pretty}
section{margin-top:clamp(3rem,7vw,4.75rem)}
h2{margin:0 0 .9rem;font:600 1.35rem/1.3 var(--serif)}
h2+.note{margin:-.6rem 0 1.3rem}
.note,small{color:var(--soft);font-size:.875rem}
code,pre{font-family:var(--mono);font-size:.84em}
.box{overflow-x:auto;overscroll-behavior-x:contain}
.box:focus-visible,summary:focus-visible{outline:2px solid var(--accent);outline-offset:3px;border-radius:2px}
table{border-collapse:collapse;width:100%;font-size:.9375rem;border-bottom:1px solid var(--hair)}
th{padding:0 0 .5rem;border-bottom:1px solid var(--ink);color:var(--soft);font-weight:500;font-size:.82rem;text-align:left;vertical-align:bottom}
td{padding:.62rem 0;border-top:1px solid var(--hair);vertical-align:top;line-height:1.45}
tbody tr:first-child td{border-top:0}
th+th,td+td{padding-left:1.5rem}
th,td.n,td:first-child{white-space:nowrap}
th.n,td.n{text-align:right}
td s{color:var(--soft);text-decoration-thickness:1px}
.to{color:var(--soft)}
figure{margin:0;min-width:0}
figcaption b{font-weight:600}
.grids{display:grid;grid-template-columns:repeat(4,1fr);gap:1.6rem 1.1rem}
@media (max-width:46rem){.grids{grid-template-columns:1fr 1fr}}
.grids img{display:block;width:100%;height:auto;border-radius:3px;background:var(--wash)}
/* Where the screen has fewer pixels than the picture, dropping some would break the digits. */
@media (min-resolution:1.9dppx){.grids img{image-rendering:pixelated}}
.grids figcaption{display:grid;grid-template-columns:1fr auto;margin-top:.55rem;font-size:.9375rem;line-height:1.45}
.grids small{grid-column:1/-1}
.charts{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,24rem),1fr));gap:2.4rem 2.2rem}
.charts>figure{max-width:36rem}
.chart{display:block;width:100%;height:auto;margin-top:.5rem;font:11.5px var(--sans)}
.tick{fill:var(--soft)}
.grid,.axis,.line,.faint,.ring{fill:none}
.grid{stroke:var(--hair)}
.axis{stroke:var(--soft);stroke-opacity:.7}
.line{stroke-width:1.9;stroke-linejoin:round;stroke-linecap:round}
.faint{stroke-width:3;stroke-linecap:round;stroke-opacity:.22}
.ring{stroke-width:1.6;fill:var(--paper)}
ul{margin:0;padding:0;list-style:none}
.legend{margin-top:.6rem;font-size:.875rem}
.legend li{display:flex;align-items:baseline;gap:.55rem;line-height:1.65}
.legend i{flex:none;width:.9rem;height:.2rem;border-radius:1px;align-self:center;background:currentColor}
.legend i.o{width:.6rem;height:.6rem;margin:0 .15rem;border:.1rem solid;border-radius:50%;background:none}
.legend code{overflow-wrap:anywhere}
.legend .n{margin-left:auto}
.drawing{margin:.4rem 0 2.2rem;padding-bottom:.4rem}
.drawing svg{display:block;max-width:none;height:auto}
details+details{border-top:1px solid var(--hair)}
summary{padding:.55rem 0;cursor:pointer;overflow-wrap:anywhere}
summary::marker{color:var(--accent)}
summary small{margin-left:.5rem}
.paths{padding:.1rem 0 .9rem 1.1rem;columns:18rem;column-gap:2rem;line-height:1.75}
.paths code{overflow-wrap:anywhere}
pre{margin:.3rem 0 0;padding:1.1rem 1.25rem;background:var(--wash);border-radius:4px;line-height:1.55}
footer{display:flex;flex-wrap:wrap;gap:.2rem 1.4rem;margin-top:clamp(3rem,7vw,4.75rem);padding-top:1rem;border-top:1px solid var(--hair);color:var(--soft);font-size:.85rem}
@media print{body{background:none}section,figure,tr{break-inside:avoid}}
"""
