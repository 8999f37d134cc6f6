"""The HTML around what is written into a report."""

from string import Template

PAGE = Template("""\
<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>$title</title>
<style>
:root { --text: #1a1d21; --quiet: #59636e; --ground: #ffffff; --rule: #d5dae0; --band: #f3f5f7; }
@media screen and (prefers-color-scheme: dark) {
  :root { --text: #e6e9ed; --quiet: #9aa5b1; --ground: #14171a; --rule: #363d45; --band: #1f2429; }
}
* { box-sizing: border-box; }
body {
  margin: 0 auto; max-width: 62rem; padding: 1.5rem 1rem 3rem;
  color: var(--text); background: var(--ground);
  font: 1rem/1.5 system-ui, sans-serif; overflow-wrap: break-word;
}
h1 { font-size: 1.7rem; line-height: 1.2; margin: 0 0 .5rem; }
h2 { font-size: 1.25rem; line-height: 1.3; margin: 2.5rem 0 .5rem; }
p { margin: .4rem 0; }
figure { margin: 1rem 0 1.5rem; }
figcaption, .quiet { color: var(--quiet); font-size: .9rem; }
.wide { overflow-x: auto; }
img {
  display: block; width: 100%; max-width: 52rem; min-width: 30rem; height: auto;
  background: #ffffff; border-radius: .3rem;
}
table { border-collapse: collapse; font-size: .9rem; font-variant-numeric: tabular-nums; }
th, td { padding: .3rem .7rem; text-align: right; white-space: nowrap; }
th:nth-child(-n+2), td:nth-child(-n+2) { text-align: left; }
thead th { white-space: normal; border-bottom: 2px solid var(--rule); vertical-align: bottom; }
tbody td { border-bottom: 1px solid var(--rule); }
tbody th { background: var(--band); text-align: left; }
dt { font-weight: 600; }
dd { margin: 0 0 .5rem; }
@media print {
  @page { margin: 15mm; }
  body { max-width: none; padding: 0; font-size: 10pt; }
  h2, h2 + p, dt { break-after: avoid; }
  figure, tr { break-inside: avoid; }
  .wide { overflow: visible; }
  img { min-width: 0; max-width: 15.5cm; max-height: 22cm; object-fit: contain; }
  table { font-size: 8pt; }
  th, td { padding: .1rem .25rem; white-space: normal; }
}
</style>
</head>
<body>
<main>
$body
</main>
</body>
</html>
""")
