// The one script of a report: shows the explanations that hold all words of the search box.
"use strict";
for (const box of document.querySelectorAll("input[data-search]")) {
  const rows = [...document.querySelectorAll(box.dataset.search + " > article")];
  const texts = rows.map((row) => row.textContent.toLowerCase());
  const count = document.getElementById(box.id + "-count");
  const search = () => {
    const words = box.value.toLowerCase().split(/\s+/).filter(Boolean);
    let found = 0;
    rows.forEach((row, place) => {
      row.hidden = !words.every((word) => texts[place].includes(word));
      found += !row.hidden;
    });
    count.textContent = found + " of " + rows.length;
  };
  box.addEventListener("input", search);
  box.parentElement.hidden = false;
  search();
}
