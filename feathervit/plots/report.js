// A click on a heading of a sortable table sorts by that column, numbers in descending order. A second click reverses it.
for (const table of document.querySelectorAll("table.sortable")) {
  const body = table.tBodies[0];
  const value = (row, column) => row.cells[column].dataset.value ?? row.cells[column].textContent.trim().toLowerCase();
  for (const button of table.querySelectorAll("thead button")) {
    button.onclick = () => {
      const heading = button.parentElement;
      const column = heading.cellIndex;
      const numbers = heading.classList.contains("n");
      const up = heading.ariaSort ? heading.ariaSort === "descending" : !numbers;
      for (const other of heading.parentElement.cells) other.removeAttribute("aria-sort");
      heading.ariaSort = up ? "ascending" : "descending";
      const compare = numbers ? (a, b) => a - b : (a, b) => a.localeCompare(b);
      const sorted = [...body.rows].sort((a, b) => compare(value(a, column), value(b, column)) * (up ? 1 : -1));
      body.append(...sorted);
    };
  }
}
