/** The page: opens a file or an address, shows the picture, and says what it took. */

import "./ulcodec.js";

const find = (id) => document.getElementById(id);
const [picture, facts, save, drop] = ["picture", "facts", "save", "drop"].map(find);
let name = "";

function open(source, itsName) {
  name = itsName;
  find("hint").hidden = true;
  picture.hidden = false;
  picture.alt = name;
  facts.value = `${name}: loading`;
  save.hidden = true;
  picture.show(source);
}

function openAddress(address) {
  find("address").value = address;
  open(address, address.split("/").at(-1));
}

picture.addEventListener("preview", ({ detail: { nSegments } }) => {
  facts.value = `${name}: ${nSegments} of 4 segments`;
});

picture.addEventListener("load", ({ detail }) => {
  const { width, height, png } = detail.picture;
  const bpp = (8 * detail.nBytes) / (width * height);
  facts.value = [
    `${name}: ${width}x${height}`,
    `${detail.nBytes.toLocaleString("en")} bytes`,
    `${bpp.toFixed(3)} bits per pixel`,
    detail.isLossless ? "lossless" : `quality ${detail.quality}`,
    `${(detail.milliseconds / 1000).toFixed(2)} s on the ${detail.device.toUpperCase()}`,
  ].join(", ");
  if (save.href) URL.revokeObjectURL(save.href);
  save.href = URL.createObjectURL(png);
  save.download = `${name.replace(/\.ulc$/, "")}.png`;
  save.hidden = false;
});

picture.addEventListener("error", () => {
  facts.value = "";
});

find("open").addEventListener("submit", (event) => {
  event.preventDefault();
  const address = find("address").value.trim();
  if (address) openAddress(address);
});

find("file").addEventListener("change", ({ target }) => {
  if (target.files.length) open(target.files[0], target.files[0].name);
});

drop.addEventListener("dragover", (event) => {
  event.preventDefault();
  drop.classList.add("over");
});

drop.addEventListener("dragleave", () => drop.classList.remove("over"));

drop.addEventListener("drop", (event) => {
  event.preventDefault();
  drop.classList.remove("over");
  const [file] = event.dataTransfer.files;
  if (file) open(file, file.name);
});

const src = new URLSearchParams(location.search).get("src");
if (src) openAddress(src);
