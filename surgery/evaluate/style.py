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
.verdict{margin:1.4rem 0 0;font:1.25rem/1.55 var(--serif);text-wrap:pretty;overflow-wrap:anywhere}
section{margin-top:clamp(3rem,7vw,4.75rem)}
h2{margin:0 0 .9rem;font:600 1.35rem/1.3 var(--serif)}
h2+.note{margin:-.6rem 0 1.3rem}
.note,small{color:var(--soft);font-size:.875rem}
code,pre{font-family:var(--mono);font-size:.84em}
.box{overflow-x:auto;overscroll-behavior-x:contain}
.box:focus-visible,summary:focus-visible,button:focus-visible{outline:2px solid var(--accent);outline-offset:3px;border-radius:2px}
table{border-collapse:collapse;width:100%;font-size:.9375rem;border-bottom:1px solid var(--hair)}
th{padding:0 0 .5rem;border-bottom:1px solid var(--ink);color:var(--soft);font-weight:500;font-size:.82rem;text-align:left;vertical-align:bottom}
td{padding:.62rem 0;border-top:1px solid var(--hair);vertical-align:top;line-height:1.45}
tbody tr:first-child td{border-top:0}
th+th,td+td{padding-left:1.5rem}
td.n,td:first-child{white-space:nowrap}
th.n,td.n{text-align:right}
.many{font-size:.84rem}
.many th+th,.many td+td{padding-left:.75rem}
.many td.n{white-space:normal}
td s{color:var(--soft);text-decoration-thickness:1px}
.to{color:var(--soft)}
figure{margin:0;min-width:0}
figcaption b{font-weight:600;overflow-wrap:anywhere}
/* A row's name may be that of a folder, without a place to break; figures beside it stay whole. */
.name{display:inline-block;min-width:8rem;max-width:18rem;white-space:normal;overflow-wrap:anywhere}
/* A site stays on one line while it can; the operator beside it takes what is left. */
.site{display:inline-block;width:max-content;max-width:20rem;overflow-wrap:anywhere}
td s~code{overflow-wrap:anywhere}
.grids{display:grid;grid-template-columns:repeat(4,1fr);gap:1.6rem 1.1rem}
@media (max-width:46rem){.grids{grid-template-columns:1fr 1fr}}
.grids figure{position:static;display:block;width:auto;height:auto;margin:0;border:0;padding:0;overflow:visible;background:none;color:inherit}
.grids button{display:block;width:100%;border:0;padding:0;background:none;cursor:zoom-in}
.grids img{display:block;width:100%;height:auto;border-radius:3px;background:var(--wash)}
/* Where the screen has fewer pixels than the picture, dropping some would break the digits. */
@media (min-resolution:1.9dppx){.grids img{image-rendering:pixelated}}
.grids figcaption{display:grid;grid-template-columns:1fr auto;column-gap:.5rem;margin-top:.55rem;font-size:.9375rem;line-height:1.45}
.grids small{grid-column:1/-1}
/* A picture that is pressed lies on the right of the screen, the teacher's on the left: the first one of all. */
.grids:has(:popover-open)::before{content:"";position:fixed;z-index:1;inset:0;background:var(--paper)}
.grids:has(:popover-open) figure:first-child,.grids figure:popover-open{position:fixed;z-index:2;inset:0;margin:auto;width:min(46vw,84vh);height:fit-content}
.grids:has(:popover-open) figure:first-child:not(:popover-open){right:50vw}
.grids:has(:popover-open) figure:popover-open:not(:first-child){left:50vw}
.grids figure:popover-open img{image-rendering:pixelated}
.grids:has(:popover-open) figure:first-child img{image-rendering:pixelated}
.grids figure:popover-open button{cursor:zoom-out}
@media (orientation:portrait){.grids:has(:popover-open) figure:first-child,.grids figure:popover-open{width:min(92vw,38vh)}
.grids:has(:popover-open) figure:first-child:not(:popover-open){right:0;bottom:50vh}
.grids:has(:popover-open) figure:popover-open:not(:first-child){left:0;top:50vh}}
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
.legend li{overflow-wrap:anywhere}
.legend .n{margin-left:auto;white-space:nowrap}
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
.status{margin:1.2rem 0 0;color:var(--accent);font-weight:500}
figure>.note{margin:.7rem 0 0;line-height:1.5}
.charts+.box,.charts+details,.box+.charts{margin-top:2.4rem}
.notes,.facts{display:grid;grid-template-columns:fit-content(45%) 1fr;gap:.35rem 1.2rem;margin:1.3rem 0 0;font-size:.875rem;line-height:1.5;color:var(--soft)}
.facts{font-size:.9375rem}
.facts+.facts{margin-top:1.3rem;padding-top:1.3rem;border-top:1px solid var(--hair)}
dt{color:var(--ink)}
dt,dd{margin:0;overflow-wrap:anywhere}
@media (max-width:40rem){
.notes,.facts{grid-template-columns:1fr;gap:0}
dd+dt{margin-top:.5rem}
thead{display:none}
table,tbody,tr,td{display:block}
tr{padding:.7rem 0}
tr+tr{border-top:1px solid var(--hair)}
td,td+td,td.n{display:flow-root;border:0;padding:.12rem 0;white-space:normal;text-align:right;overflow-wrap:anywhere}
td:first-child{font-weight:600;text-align:left}
td[data-title]::before{content:attr(data-title);float:left;margin-right:1rem;color:var(--soft)}
pre{white-space:pre-wrap;overflow-wrap:anywhere}
.site{width:auto}
}
@media print{
@page{size:A4;margin:14mm}
:root{color-scheme:light;--paper:#fff;--ink:#1c1b19;--soft:#5b5750;--hair:#dcd8d0;--wash:#f5f2ed;--accent:#b03a08}
html{scrollbar-gutter:auto;font-size:12px}
body{background:none;font-size:12px}
main{max-width:none;padding:0}
section{margin-top:2rem}
h2{break-after:avoid}
figure,tr,dl,.drawing{break-inside:avoid}
thead{display:table-header-group}
.box{overflow:visible}
table{font-size:10.5px}
th{font-size:9.5px}
th+th,td+td{padding-left:.7rem}
th,td,td.n,td:first-child{white-space:normal;overflow-wrap:anywhere}
.name{max-width:12rem}
.site{width:auto}
.grids{grid-template-columns:repeat(4,1fr)}
.charts{grid-template-columns:1fr 1fr}
.drawing svg{max-width:100%}
pre{white-space:pre-wrap;overflow-wrap:anywhere}
details::details-content{content-visibility:visible;block-size:auto}
summary{list-style:none}
.screen{display:none}
}
"""
