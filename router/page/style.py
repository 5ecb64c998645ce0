"""The page's one style sheet: light, dark and paper, from a telephone to a wide screen.

The rule: nothing is loaded and nothing is run; system fonts only. Text keeps a contrast of 4.5 to 1 on its ground, and
no chart says by colour alone what its table does not say in words. Blue and orange stay apart for every kind of sight.
"""

STYLE = """
:root{color-scheme:light dark;--ground:#f6f7f9;--card:#fff;--ink:#1a1d21;--soft:#5a626c;--rule:#dde1e6;--grid:#e8ebef;
--opus:#3556c8;--flash:#d9730d;--ours:#848c96;--good:#1f7a4d;--bad:#c4314b}
@media(prefers-color-scheme:dark){:root{--ground:#14171b;--card:#1d2127;--ink:#e8eaed;--soft:#a3abb5;--rule:#343a43;
--grid:#2b3038;--opus:#8aa2ff;--flash:#ffa657;--ours:#98a1ac;--good:#5fd39a;--bad:#ff7b92}}
*{box-sizing:border-box}
body{margin:0;background:var(--ground);color:var(--ink);
font:15px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,sans-serif}
main{max-width:1440px;margin:0 auto;padding:20px 16px 40px}
h1{font-size:1.5rem;line-height:1.25;margin:0 0 4px}
h2{font-size:1.02rem;margin:0 0 2px}
p{margin:0 0 8px}
.soft,.say{color:var(--soft)}
.say{font-size:.86rem;margin-bottom:10px}
.tiles{display:grid;grid-template-columns:repeat(auto-fit,minmax(158px,1fr));gap:12px;margin:18px 0}
.tile{background:var(--card);border:1px solid var(--rule);border-radius:10px;padding:12px 14px;min-width:0}
.tile dt{color:var(--soft);font-size:.82rem}
.tile dd{margin:0;font-size:1.35rem;font-weight:650;line-height:1.25;overflow-wrap:anywhere}
.tile dd+dd{font-size:.8rem;font-weight:400;color:var(--soft);margin-top:3px;line-height:1.35}
.cards{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(100%,400px),1fr));gap:14px;align-items:start}
.card{background:var(--card);border:1px solid var(--rule);border-radius:10px;padding:14px 16px;min-width:0;margin:0}
.wide{grid-column:1/-1}
svg{display:block;width:100%;height:auto;overflow:visible}
svg text{font-family:inherit;fill:var(--ink);font-size:11px}
svg .tick{fill:var(--soft);font-size:10px}
.end{text-anchor:end}.mid{text-anchor:middle}
svg .value{text-anchor:end;font-variant-numeric:tabular-nums}
.grid{stroke:var(--grid);fill:none}.axis{stroke:var(--soft);fill:none}
.target{stroke:var(--soft);stroke-dasharray:4 3;fill:none}.track{fill:var(--grid)}
.opus{fill:var(--opus)}.flash{fill:var(--flash)}.ours{fill:var(--ours)}.good{fill:var(--good)}.bad{fill:var(--bad)}
.see{fill-opacity:.75}
.line{fill:none;stroke-width:2;stroke-linejoin:round}
.line.opus{stroke:var(--opus)}.line.flash{stroke:var(--flash)}.line.ours{stroke:var(--ours)}
.legend{display:flex;flex-wrap:wrap;gap:2px 14px;list-style:none;margin:0 0 6px;padding:0;
font-size:.82rem;color:var(--soft)}
.legend i{display:inline-block;width:10px;height:10px;border-radius:2px;margin-right:5px}
i.opus{background:var(--opus)}i.flash{background:var(--flash)}i.ours{background:var(--ours)}
i.good{background:var(--good)}i.bad{background:var(--bad)}
details{margin-top:8px}
summary{cursor:pointer;color:var(--soft);font-size:.84rem}
summary:focus-visible{outline:2px solid var(--opus);outline-offset:2px}
.scroll{overflow-x:auto;margin-top:6px}
table{border-collapse:collapse;width:100%;font-size:.83rem;font-variant-numeric:tabular-nums}
caption{text-align:left;color:var(--soft);font-size:.8rem;padding-bottom:4px}
th,td{padding:4px 8px;border-bottom:1px solid var(--rule);text-align:right;white-space:nowrap}
th{font-weight:600;color:var(--soft)}
.word,tbody th{text-align:left}
tbody th{font-weight:400;color:var(--ink);white-space:normal;overflow-wrap:anywhere;min-width:8em}
footer{margin-top:22px;color:var(--soft);font-size:.84rem;max-width:75ch}
@media print{:root{--ground:#fff;--card:#fff;--ink:#000;--soft:#444;--rule:#bbb;--grid:#ddd;--opus:#3556c8;
--flash:#d9730d;--ours:#848c96;--good:#1f7a4d;--bad:#c4314b}
body{font-size:10pt}main{padding:0;max-width:none}*{-webkit-print-color-adjust:exact;print-color-adjust:exact}
.cards{grid-template-columns:1fr}svg{max-width:12cm}.card,.tile{break-inside:avoid;border-radius:0}.scroll{overflow:visible}
summary{display:none}details::details-content{display:block;content-visibility:visible;block-size:auto}
table{font-size:7.5pt}th,td{padding:2px 4px;white-space:normal}tr{break-inside:avoid}}
"""
