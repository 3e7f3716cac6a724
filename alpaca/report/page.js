// Filters and sorts the examples of the page and shows two answers side by side. It only moves, hides and labels
// elements that are there; text of a model is never made into elements.
(() => {
  "use strict";
  const list = document.getElementById("list");
  const controls = document.getElementById("controls");
  if (!list || !controls) return;
  const byId = (name) => document.getElementById(name);
  const [find, first, second, metric, order, count] = ["find", "first", "second", "metric", "order", "count"].map(byId);
  const examples = [...list.children].map((element) => {
    const answers = new Map();
    for (const each of element.querySelectorAll(".answer")) answers.set(each.dataset.variant, each);
    return { element, answers, gain: element.querySelector(".gain"), text: element.textContent.toLowerCase() };
  });

  const score = (example, variant) => {
    const answer = example.answers.get(variant);
    const text = answer && metric ? answer.dataset.scores.split(",")[Number(metric.value)] : "";
    return text ? Number(text) : NaN;
  };

  const update = () => {
    const words = find.value.toLowerCase().trim();
    const sign = metric ? Number(metric.selectedOptions[0].dataset.sign) : 1;  // 0: neither way is better
    let shown = 0;
    for (const example of examples) {
      const hit = !words || example.text.includes(words);
      example.element.hidden = !hit;
      shown += hit ? 1 : 0;
      for (const [variant, answer] of example.answers) {
        answer.hidden = variant !== first.value && variant !== second.value;
        answer.style.order = variant === first.value ? "0" : "1";
      }
      example.change = (sign || 1) * (score(example, second.value) - score(example, first.value));
      example.gain.className = "gain";
      if (Number.isNaN(example.change)) {
        example.gain.textContent = metric ? "no score" : "";
      } else if (!sign) {
        example.gain.textContent = (example.change < 0 ? "\u2212" : "+") + Math.abs(example.change).toFixed(4);
      } else {
        const kind = example.change > 0 ? "better" : example.change < 0 ? "worse" : "same";
        example.gain.classList.add(kind);
        const icon = { better: "✓ gain ", worse: "✗ loss ", same: "= " }[kind];
        example.gain.textContent = icon + Math.abs(example.change).toFixed(4);
      }
    }
    const way = { gain: -1, loss: 1 }[order ? order.value : "page"];
    const sorted = [...examples];
    if (way) {
      const rank = (example) => (Number.isNaN(example.change) ? Infinity : way * example.change);
      sorted.sort((a, b) => (rank(a) === rank(b) ? 0 : rank(a) < rank(b) ? -1 : 1));
    }
    list.append(...sorted.map((example) => example.element));
    count.textContent = `${shown} of ${examples.length} examples shown`;
  };

  controls.hidden = false;
  list.classList.add("two");
  for (const each of [find, first, second, metric, order]) if (each) each.addEventListener("input", update);
  update();
})();
