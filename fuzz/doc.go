// Package fuzz holds the fuzz targets that cross packages. The others stand
// beside the code that they try; fuzz/.clusterfuzzlite builds all of them.
package fuzz
